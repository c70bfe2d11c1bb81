"""The course's exercises: one module per chapter, each with ``EXERCISES``. The solutions are in the notebooks."""
