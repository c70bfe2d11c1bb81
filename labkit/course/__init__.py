"""The course behind the notebooks: exercises with checks for students, release and self-test for instructors.

::

    exercise    Exercise: question, examples, inputs for grading, known mistakes with their hints
    exercises/  the course's exercises, one module per chapter
    checks      check("name"): reports at once whether an answer is correct, or what may be wrong
"""

from labkit.course.checks import CheckResult, check
from labkit.course.exercise import Exercise, Mistake

__all__ = ["CheckResult", "Exercise", "Mistake", "check"]
