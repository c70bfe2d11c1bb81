"""The verdict, outside of all sandboxes: a student's values beside those of the instructor's solution."""

from __future__ import annotations

import builtins
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from labkit.course.checks import judge
from labkit.course.exercise import Exercise, Inputs
from labkit.course.source import SourceNotebook
from labkit.errors import GradingError
from labkit.grading.rebuild import Rebuilt
from labkit.grading.run_notebook import OWN_WORDS, Answer, Run
from labkit.grading.sandbox.probe import STUB
from labkit.grading.untrusted_text import visible

__all__ = ["ExerciseGrade", "Reference", "inputs_to_try", "reference_of", "score"]

_FORGED = "The check of {name} says that it is right, and it gives wrong values for the same inputs."
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")  # where an object lies differs from run to run


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the instructor's solution gave.

    Parameters
    ----------
    values : mapping of str to list
        By exercise, one for each of the inputs.
    checks : mapping of str to str
        What the check cells showed.
    """

    values: Mapping[str, list[Any]]
    checks: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class ExerciseGrade:
    """What an exercise got.

    Parameters
    ----------
    name : str
    points, of_points : float
        The smaller share that came out right, of the examples (they hold the edges) and of the inputs drawn for grading
        (nobody could look those up), rounded down to half points.
    right, inputs : int
    answer : str
        What the student wrote.
    message : str
        What went wrong, or that nothing did; never an input or an expected value of the grading.
    check : str
        What the check cell showed.
    wrong : str
        A short mark of what it gave where it was wrong: alike for those who made the same mistake.
    problem : str
        What is odd: a check that shows what the instructor's shows, though the values for the same inputs are wrong.
    """

    name: str
    points: float
    of_points: float
    right: int
    inputs: int
    answer: str
    message: str
    check: str
    wrong: str
    problem: str = ""


def reference_of(source: SourceNotebook, run: Run) -> Reference:
    """Return what the instructor's solution gave.

    Raises
    ------
    GradingError
        When it gave nothing, or what its own exercise does not accept: the notebook is to be mended, nobody graded.
    """
    expected: dict[str, list[Any]] = {}
    for name, exercise in source.exercises.items():
        faults = [answer.error for answer in run.answers[name] if answer.error]
        if faults:
            raise GradingError(f"{source.name}: the notebook's own solution of {name} fails: {faults[0]}")
        expected[name] = [answer.value for answer in run.answers[name]]
        if not exercise.is_function and not _is_right(exercise, run.answers[name][0], expected[name][0]):
            raise GradingError(f"{source.name}: the notebook's own solution of {name} is not what the exercise accepts")
    return Reference(expected, {name: _check_text(source, run, name) for name in source.exercises})


def inputs_to_try(exercise: Exercise, seed: int) -> list[Inputs] | None:
    """Return an exercise's examples, which hold its edges, and inputs drawn for grading; None for a value."""
    if not exercise.is_function:
        return None
    return [*(inputs for inputs, _ in exercise.examples), *exercise.draw_inputs(seed)]


def score(source: SourceNotebook, rebuilt: Rebuilt, run: Run, reference: Reference) -> tuple[ExerciseGrade, ...]:
    """Return what each exercise got."""
    return tuple(_score_one(source, rebuilt, run, name, reference) for name in source.points)


def _score_one(source: SourceNotebook, rebuilt: Rebuilt, run: Run, name: str, reference: Reference) -> ExerciseGrade:
    exercise, most = source.exercises[name], source.points[name]
    answers = run.answers[name]
    right = [_is_right(exercise, answer, value) for answer, value in zip(answers, reference.values[name], strict=True)]
    examples = len(exercise.examples) if exercise.is_function else 0
    share = min(_share(right[:examples]), _share(right[examples:]))
    if all(right):
        message = "Right." if len(right) == 1 else f"Right for all {len(right)} inputs."
    else:
        message = _shown(_what_went_wrong(source, rebuilt, run, exercise, answers, right))
    check = _check_text(source, run, name)
    says_right = bool(reference.checks[name]) and reference.checks[name] in check
    forged = says_right and not all(right[:examples] if exercise.is_function else right)
    return ExerciseGrade(
        name=name,
        points=most if all(right) else math.floor(most * 2 * share) / 2,
        of_points=most,
        right=sum(right),
        inputs=len(right),
        answer=rebuilt.answers[name],
        message=message[:600],
        check=_shown(check),
        wrong="" if all(right) else _mark(answers, right),
        problem=_FORGED.format(name=name) if forged else "",
    )


def _share(right: list[bool]) -> float:
    return sum(right) / len(right) if right else 1.0


def _is_right(exercise: Exercise, answer: Answer, expected: Any) -> bool:
    """Whether a value is the expected one: plain values of JSON, compared in this process."""
    if answer.error:
        return False
    try:
        if exercise.accepts is not None:
            return judge(exercise, answer.value)[0]
        return exercise.same(answer.value, expected)
    except RecursionError:
        return False


def _what_went_wrong(
    source: SourceNotebook, rebuilt: Rebuilt, run: Run, exercise: Exercise, answers: list[Answer], right: list[bool]
) -> str:
    if not rebuilt.answers[exercise.name].strip():
        return "Not answered."
    cell_id = next(cell.cell_id for cell in source.cells if cell.answers == exercise.name)
    if words := run.words(cell_id):
        return f"In the answer's cell: {words}"
    if not exercise.is_function:
        return answers[0].error or judge(exercise, answers[0].value)[1]
    if all(answer.error == STUB for answer in answers):
        return "Nothing is written there yet."
    begin = f"Right for {sum(right)} of {len(right)} inputs."
    errors = [answer.error for answer in answers if answer.error]
    return f"{begin} {_first_of(errors)}" if errors else f"{begin} Compare more examples by hand."


def _first_of(errors: list[str]) -> str:
    """Return the kind of the first error, where it is one of Python's or ours: any other text can quote the inputs."""
    begin = errors[0].split(":")[0]
    if begin in OWN_WORDS or isinstance(getattr(builtins, begin, None), type):
        return f"The first that failed: {begin}."
    return "The first that failed: an error of its own."


def _check_text(source: SourceNotebook, run: Run, name: str) -> str:
    cell = next((cell for cell in source.cells if cell.checks == name), None)
    if cell is None:
        return ""
    result = run.cells.get(cell.cell_id)
    return run.words(cell.cell_id) or (result.shown.strip() if result else "")


def _shown(text: str) -> str:
    return visible(_ADDRESS.sub("0x…", text))


def _mark(answers: list[Answer], right: list[bool]) -> str:
    wrong = next(answer for answer, good in zip(answers, right, strict=True) if not good)
    text = wrong.error or repr(wrong.value)
    return _shown(" ".join(text.split()))[:80]
