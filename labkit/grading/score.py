"""Score answers outside the sandbox: compare a student's values with those of the instructor's solution."""

from __future__ import annotations

import builtins
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from labkit.course.checks import CHANGES, judge
from labkit.course.exercise import Exercise
from labkit.course.kinds import wrong_kind
from labkit.course.source import SourceNotebook
from labkit.errors import GradingError
from labkit.grading.rebuild import Rebuilt
from labkit.grading.run_notebook import OWN_MESSAGES, Answer, Run
from labkit.grading.sandbox.probe import NOT_PLAIN, STUB
from labkit.grading.untrusted_text import visible
from labkit.units import counted

_DISAGREES = (
    "The check of {name} printed that the answer is correct; {wrong} of {n} values that it was then asked for differ."
)
# besides the built-in types
_SHOWN_TYPES = {"generator", "coroutine", "dict_keys", "dict_values", "dict_items", "function", "deque", "ndarray"}
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")  # memory addresses differ between runs


@dataclasses.dataclass(frozen=True)
class Reference:
    """The results of the instructor's solution, by exercise: a value per input, and the output of the check cell."""

    values: Mapping[str, list[Any]]
    checks: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class ExerciseGrade:
    """The grade of an exercise.

    Points are proportional to the smaller of two fractions, rounded down to half points: the correct results on the examples
    (which include edge cases), and on the inputs drawn for grading (which cannot be looked up).
    """

    name: str
    points: float
    of_points: float
    right: int  # of the inputs
    inputs: int
    answer: str
    message: str  # never an input or an expected value used for grading
    check: str  # output of the check cell
    wrong: str  # the first wrong result, shortened: equal for students who made the same mistake
    problem: str = ""  # set if the check's output is the instructor's although the values of the examples differ


def reference_of(source: SourceNotebook, run: Run) -> Reference:
    """Return the results of the instructor's solution; raise `GradingError` if it fails or its exercise rejects it."""
    expected: dict[str, list[Any]] = {}
    for name, exercise in source.exercises.items():
        faults = [answer.error for answer in run.answers[name] if answer.error]
        if faults:
            raise GradingError(f"{source.name}: the instructor's solution of {name} fails: {faults[0]}")
        expected[name] = [answer.value for answer in run.answers[name]]
        if not exercise.is_function and not _is_right(exercise, run.answers[name][0], expected[name][0]):
            raise GradingError(f"{source.name}: the exercise {name} rejects the instructor's solution")
    return Reference(expected, {name: _check_text(source, run, name) for name in source.exercises})


def score(source: SourceNotebook, rebuilt: Rebuilt, run: Run, name: str, reference: Reference) -> ExerciseGrade:
    """Return the grade of an exercise."""
    exercise, of_points = source.exercises[name], source.points[name]
    answers = run.answers[name]
    right = [_is_right(exercise, answer, value) for answer, value in zip(answers, reference.values[name], strict=True)]
    examples = len(exercise.examples) if exercise.is_function else 0
    fraction = min(_fraction(right[:examples]), _fraction(right[examples:]))
    if all(right):
        message = "Correct." if len(right) == 1 else f"Correct for all {counted(len(right), 'input')}."
    else:
        message = _escape(_what_went_wrong(rebuilt, run, exercise, answers, reference.values[name], right))
    if any(answer.changed for answer in answers):
        message += f" {CHANGES}"
    check = _check_text(source, run, name)
    check_passed = bool(reference.checks[name]) and reference.checks[name] in check
    tried = right[:examples] if exercise.is_function else right
    problem = _DISAGREES.format(name=name, n=len(tried), wrong=tried.count(False)) if check_passed and not all(tried) else ""
    return ExerciseGrade(
        name=name,
        points=of_points if all(right) else math.floor(of_points * 2 * fraction) / 2,
        of_points=of_points,
        right=sum(right),
        inputs=len(right),
        answer=rebuilt.answers[name],
        message=message[:600],
        check=_escape(check),
        wrong="" if all(right) else _first_wrong(answers, right),
        problem=problem,
    )


def _fraction(right: list[bool]) -> float:
    return sum(right) / len(right) if right else 1.0


def _is_right(exercise: Exercise, answer: Answer, expected: Any) -> bool:
    """Return whether an answer has the expected value: JSON values, compared in this process."""
    if answer.error:
        return False
    if exercise.accepts is not None:
        return judge(exercise, answer.value)[0]
    return exercise.same(answer.value, expected)


def _what_went_wrong(
    rebuilt: Rebuilt, run: Run, exercise: Exercise, answers: list[Answer], expected: list[Any], right: list[bool]
) -> str:
    if not rebuilt.answers[exercise.name].strip():
        return "Not answered."
    parts = [cell.cell_id for cell in rebuilt.cells if cell.answers == exercise.name and cell.source.strip()]
    failure = next(filter(None, map(run.failure, parts)), "")
    if failure and (len(parts) == 1 or all(answer.error for answer in answers)):
        return f"The answer cell failed: {failure}"
    if not exercise.is_function:
        return answers[0].error or judge(exercise, answers[0].value)[1]
    if all(answer.error == STUB for answer in answers):
        return "Not answered."
    correct = f"Correct for {sum(right)} of {len(right)} inputs."
    errors = [answer.error for answer in answers if answer.error]
    if errors:
        return f"{correct} {_first_error(errors)}"
    wrong = right.index(False)
    kind = wrong_kind(answers[wrong].value, expected[wrong])
    return f"{correct} One result has another type: {kind}." if kind else f"{correct} Test your function on more examples."


def _first_error(errors: list[str]) -> str:
    """Return the type of the first error if it is built-in, or our own message; any other text could quote the inputs."""
    kind = errors[0].split(":")[0]
    returned = errors[0].removeprefix(NOT_PLAIN)
    is_shown = returned in _SHOWN_TYPES or isinstance(getattr(builtins, returned, None), type)
    if kind in OWN_MESSAGES or isinstance(getattr(builtins, kind, None), type) or (is_shown and returned != errors[0]):
        return f"First error: {kind}."
    return "First error: a custom exception."


def _check_text(source: SourceNotebook, run: Run, name: str) -> str:
    cell = next((cell for cell in source.cells if cell.checks == name), None)
    if cell is None:
        return ""
    result = run.cells.get(cell.cell_id)
    return run.failure(cell.cell_id) or (result.output.strip() if result else "")


def _escape(text: str) -> str:
    return visible(_ADDRESS.sub("0x…", text))


def _first_wrong(answers: list[Answer], right: list[bool]) -> str:
    wrong = next(answer for answer, ok in zip(answers, right, strict=True) if not ok)
    text = wrong.error or repr(wrong.value)
    return _escape(" ".join(text.split()))[:80]
