"""The course around the notebooks: exercises with checks for students; release and grading for instructors.

::

    exercise    Exercise: what is asked, examples, inputs for grading, known mistakes with their hints
    exercises/  the course's own, a module a chapter
    checks      check("name"): says at once whether an answer is right, and what may be wrong
"""

from __future__ import annotations

from labkit.course.checks import CheckResult, check
from labkit.course.exercise import Exercise, Mistake

__all__ = ["CheckResult", "Exercise", "Mistake", "check"]
