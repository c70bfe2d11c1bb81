"""The course's exercises: a module a chapter, each with ``EXERCISES``. The solutions stand in the notebooks."""
