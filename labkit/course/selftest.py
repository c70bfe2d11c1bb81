"""selftest_course: solutions earn all points, stubs none, and every known mistake gets its hint."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

from labkit.course.checks import judge, returns
from labkit.course.exercise import Exercise, Inputs, call
from labkit.course.release import stub_of
from labkit.course.source import SourceCell, SourceNotebook, read_sources
from labkit.errors import GradingError
from labkit.records import Record

_SEED = 1


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ExerciseTest(Record):
    """The self-test result of an exercise."""

    notebook: str
    name: str
    points: float
    n_mistakes: int
    fault: str  # the first fault; empty if there is none


def selftest_course(source: str | Path) -> tuple[ExerciseTest, ...]:
    """Test the exercises of a notebook or a folder of notebooks; their solution cells run in this process."""
    return tuple(
        ExerciseTest(notebook.name, name, notebook.points[name], len(exercise.mistakes), _fault(notebook, exercise))
        for notebook in read_sources(source).values()
        for name, exercise in notebook.exercises.items()
    )


def _fault(notebook: SourceNotebook, exercise: Exercise) -> str:
    """Return the first fault, or an empty text."""
    cell = next(cell for cell in notebook.cells if cell.answers == exercise.name)
    if notebook.points[exercise.name] != exercise.points:
        return f"its check cell says {notebook.points[exercise.name]:g} points, the exercise {exercise.points}"
    if len(exercise.mistakes) < 3:
        return "it has fewer than three known mistakes"
    try:
        stub = _defined(notebook, dataclasses.replace(cell, source=stub_of(cell.source, exercise.name)), is_stub=True)
    except GradingError as error:
        return str(error)
    if judge(exercise, stub)[0]:
        return "the stub passes: it should earn no points"
    wrong = [mistake for mistake in exercise.mistakes if judge(exercise, mistake.answer) != (False, mistake.hint)]
    if wrong:
        return f"a known mistake does not get its hint: {wrong[0].hint}"
    if exercise.accepts is not None:  # the value is measured when the notebook runs
        return ""
    try:
        return _solution_fault(exercise, _defined(notebook, cell))
    except GradingError as error:
        return str(error)


def _solution_fault(exercise: Exercise, answer: Any) -> str:
    """Return a fault of the solution, or of inputs that do not tell a known mistake from it: it would get all points."""
    passed, message = judge(exercise, answer)
    if not passed:
        return f"its solution is wrong: {message}"
    results: list[tuple[Inputs, Any]] = []
    for inputs in exercise.inputs_to_try(_SEED) or []:
        try:
            results.append((inputs, call(answer, inputs)[0]))
        except Exception as error:
            return f"its solution fails on {inputs!r}: {type(error).__name__}: {error}"
        if not returns(exercise, answer, *results[-1]):
            return f"its solution returns different results for the same inputs {inputs!r}"
    for mistake in exercise.mistakes if results else ():
        if all(returns(exercise, mistake.answer, *result) for result in results):
            return f"grading would not detect the mistake: {mistake.hint}"
    return ""


def _defined(notebook: SourceNotebook, cell: SourceCell, *, is_stub: bool = False) -> Any:
    """Return what an answer cell defines; cells above it run only if it needs them, as they may load models."""
    exercise = notebook.exercises[str(cell.answers)]
    above = [
        other for other in notebook.cells[: [one.cell_id for one in notebook.cells].index(cell.cell_id)] if not other.checks
    ]
    for cells in ([], above):
        names: dict[str, Any] = {"__name__": "__main__"}
        for other in cells:
            with contextlib.suppress(Exception):  # as in Jupyter, the next cell runs anyway
                _run(other.source, names)
        try:
            _run(cell.source, names)
        except Exception as error:  # the author's own cell
            fault = f"its solution cell does not run: {type(error).__name__}: {error}"
            continue
        answer, fault = names.get(exercise.name), ""
        if is_stub or judge(exercise, answer)[0]:
            break
    if fault:
        raise GradingError(fault)
    return answer


def _run(source: str, names: dict[str, Any]) -> None:
    from IPython.core.inputtransformer2 import TransformerManager

    plain = TransformerManager().transform_cell(source)  # type: ignore[no-untyped-call,unused-ignore]
    code = re.sub(r"^(\s*)get_ipython\(\).*", r"\1pass", plain, flags=re.MULTILINE)  # what magics became
    exec(compile(code, "<cell>", "exec"), names)  # noqa: S102  # as the notebook does
