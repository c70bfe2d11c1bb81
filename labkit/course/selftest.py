"""selftest_course: every solution earns all its points, every stub none, every known mistake gets its hint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from labkit.course.checks import judge
from labkit.course.exercise import Exercise
from labkit.course.release import stub_of
from labkit.course.source import SourceNotebook, read_sources
from labkit.errors import GradingError
from labkit.records import Record

__all__ = ["ExerciseTest", "selftest_course"]

_SEED = 1


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ExerciseTest(Record):
    """How an exercise stood its test.

    Attributes
    ----------
    notebook, name : str
    points : float
    n_mistakes : int
        In its catalogue.
    fault : str
        The first thing that is wrong with the exercise; empty where nothing is.
    """

    notebook: str
    name: str
    points: float
    n_mistakes: int
    fault: str


def selftest_course(source: str | Path) -> tuple[ExerciseTest, ...]:
    """Test the exercises of a folder of notebooks, or of one; their own cells are run in this process.

    Raises
    ------
    ArgumentError, GradingError
        When there is no notebook, or one is damaged.
    """
    return tuple(
        ExerciseTest(notebook.name, name, notebook.points[name], len(exercise.mistakes), _fault(notebook, exercise))
        for notebook in read_sources(source).values()
        for name, exercise in notebook.exercises.items()
    )


def _fault(notebook: SourceNotebook, exercise: Exercise) -> str:
    """Return the first thing that is wrong, or an empty text."""
    cell = next(cell for cell in notebook.cells if cell.answers == exercise.name)
    if notebook.points[exercise.name] != exercise.points:
        return f"its check cell says {notebook.points[exercise.name]:g} points, the exercise {exercise.points}"
    if len(exercise.mistakes) < 3:
        return "it has fewer than three known mistakes"
    try:
        stub = _defined(stub_of(cell.source, exercise.name), exercise.name)
    except GradingError as error:
        return str(error)
    if judge(exercise, stub)[0]:
        return "the stub is right: it should earn nothing"
    wrong = [mistake for mistake in exercise.mistakes if judge(exercise, mistake.answer) != (False, mistake.hint)]
    if wrong:
        return f"a known mistake is not told its hint: {wrong[0].hint}"
    if exercise.accepts is not None:  # the value is measured when the notebook runs
        return ""
    return _solution_fault(exercise, cell.source)


def _solution_fault(exercise: Exercise, source: str) -> str:
    try:
        answer = _defined(source, exercise.name)
    except Exception as error:  # the author's own cell
        return f"its solution cell does not run by itself: {type(error).__name__}: {error}"
    passed, message = judge(exercise, answer)
    if not passed:
        return f"its solution is not right: {message}"
    for inputs in exercise.draw_inputs(_SEED):
        try:
            expected = answer(*inputs)
        except Exception as error:
            return f"its solution fails on {inputs!r}: {type(error).__name__}: {error}"
        if not exercise.same(answer(*inputs), expected):
            return f"its solution is not the same twice on {inputs!r}"
    return _unseen_mistake(exercise, answer)


def _unseen_mistake(exercise: Exercise, answer: Any) -> str:
    """Return the mistake that the drawn inputs do not tell from the solution: grading would give it all points."""
    if not exercise.is_function:
        return ""
    drawn = [*exercise.draw_inputs(_SEED), *(inputs for inputs, _ in exercise.examples)]
    for mistake in exercise.mistakes:
        if all(_agrees(exercise, mistake.answer, answer, inputs) for inputs in drawn):
            return f"grading would not notice the mistake: {mistake.hint}"
    return ""


def _agrees(exercise: Exercise, mistake: Any, answer: Any, inputs: tuple[Any, ...]) -> bool:
    try:
        return exercise.same(mistake(*inputs), answer(*inputs))
    except Exception:  # a mistake that raises is noticed
        return False


def _defined(source: str, name: str) -> Any:
    names: dict[str, Any] = {}
    exec(compile(source, name, "exec"), names)  # noqa: S102  # the author's own cell, as the notebook runs it
    return names.get(name)
