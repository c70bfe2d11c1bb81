"""check("name"): report at once whether an answer is correct, or what may be wrong, without revealing the answer."""

from __future__ import annotations

import dataclasses
import html
import importlib
import os
import pkgutil
import runpy
import sys
import types
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from labkit.course import exercises
from labkit.course.exercise import Exercise, Inputs, call, plain
from labkit.course.kinds import wrong_kind
from labkit.errors import ArgumentError
from labkit.units import counted

OWN_EXERCISES = "exercises.py"
_UNDER_NBGRADER = "NBGRADER_EXECUTION"  # the environment variable that nbgrader sets while it grades or validates

CHANGES = "It changes what it is given: let it work on a copy, such as list(x) or sorted(x)."
_BLANK = "No answer: replace the placeholder with your answer."
_WRONG_ATTEMPTS: Counter[str] = Counter()  # by exercise, since the last correct one


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The result of `check`.

    Attributes
    ----------
    name : str
        Name of the exercise.
    passed : bool
        Whether the answer is right.
    message : str
        What was tested, or what to look at.
    points : int
        Points of the exercise; grading awards them after testing on other inputs, too.
    """

    name: str
    passed: bool
    message: str
    points: int

    def __repr__(self) -> str:
        return f"{self.name}: {'' if self.passed else 'not yet. '}{self.message}"

    def _repr_html_(self) -> str:
        mark = "✔" if self.passed else "✘ not yet."
        return f"<p><strong>{html.escape(self.name)}: {mark}</strong> {html.escape(self.message)}</p>"


def check(name: str, answer: Any = ...) -> CheckResult:
    """Check the answer to an exercise.

    A wrong attempt gets a message about what is wrong; each further one also gets the next of the exercise's hints.

    Parameters
    ----------
    name : str
        Name of the exercise, and of the function or variable that answers it. Known are the course's exercises and those
        of an ``exercises.py`` in the working directory, which is the notebook's folder.
    answer : object, optional
        The answer itself; by default the notebook's variable or function of that name.

    Returns
    -------
    CheckResult
        Displayed as one line when it is the last line of a cell.

    Raises
    ------
    ArgumentError
        If the exercise is unknown, or ``exercises.py`` does not run.
    AssertionError
        If the answer is wrong and nbgrader runs the cell: nbgrader gives full points to a cell that raises nothing.
    """
    exercise = find_exercise(name, Path.cwd())
    names = sys._getframe(1).f_globals
    if answer is ... and name not in names:
        passed, message = False, f"{name!r} is not defined: run the cell that defines it first."
    else:
        passed, message = judge(exercise, names[name] if answer is ... else answer)
        if message != _BLANK:
            message += _next_hint(exercise, passed)
    result = CheckResult(name, passed, message, exercise.points)
    if not passed and _UNDER_NBGRADER in os.environ:
        raise AssertionError(repr(result))
    return result


def _next_hint(exercise: Exercise, passed: bool) -> str:
    """Count the attempt and return the next hint, or an empty text if none is due."""
    _WRONG_ATTEMPTS[exercise.name] = 0 if passed else _WRONG_ATTEMPTS[exercise.name] + 1
    number = min(_WRONG_ATTEMPTS[exercise.name] - 1, len(exercise.hints))
    return f" Hint {number} of {len(exercise.hints)}: {exercise.hints[number - 1]}" if number > 0 else ""


def judge(exercise: Exercise, answer: Any) -> tuple[bool, str]:
    """Return whether an answer is correct on the examples, and the message for the student."""
    if answer is None or answer is ...:
        return False, _BLANK
    if exercise.by_suite:
        return _judge_by_suite(exercise, answer)
    if exercise.is_function:
        return _judge_function(exercise, answer)
    return _judge_value(exercise, answer)


def _judge_value(exercise: Exercise, answer: Any) -> tuple[bool, str]:
    if callable(answer):
        return False, f"{exercise.name} should be a value, but it is a function: did you forget to call it?"
    if exercise.accepts is None:
        correct = any(exercise.same(answer, expected) for _, expected in exercise.examples)
    else:
        try:
            correct = exercise.accepts(plain(answer)) is True
        except Exception:  # a value of the wrong type
            correct = False
    if correct:
        return True, "Correct."
    for mistake in exercise.mistakes:
        if exercise.same(answer, mistake.answer):
            return False, mistake.hint
    kind = _wrong_kind(answer, exercise.examples[0][1]) if exercise.examples else ""
    return False, f"Not correct{kind}. Asked for: {exercise.question}"


def _judge_by_suite(exercise: Exercise, answer: Any) -> tuple[bool, str]:
    from labkit.conformance import check_module

    (report,) = check_module(types.SimpleNamespace(**{exercise.name: answer}), [exercise.name])
    if report.status == "missing":
        return False, _BLANK if callable(answer) else f"{exercise.name} should be a function."
    if report.status == "fine":
        return True, "Correct, as labkit check says; grading uses other inputs, too."
    return False, report.hint[0].upper() + report.hint[1:] + ("" if report.hint.endswith("?") else ".")


def _judge_function(exercise: Exercise, answer: Any) -> tuple[bool, str]:
    if not callable(answer):
        return False, f"{exercise.name} should be a function, but its type is {type(answer).__name__}."
    results, hint = [], ""
    for inputs, _ in exercise.examples:
        try:
            result, changed = call(answer, inputs)
        except NotImplementedError:  # the placeholder
            return False, _BLANK
        except Exception as error:
            return False, f"{exercise.name}({_format(inputs)}) raised {type(error).__name__}: {' '.join(str(error).split())}"
        results.append(result)
        hint = f" {CHANGES}" if changed else hint
    passed, message = _judge_results(exercise, results)
    return passed, message + hint


def _judge_results(exercise: Exercise, results: list[Any]) -> tuple[bool, str]:
    if all(exercise.same(result, expected) for result, (_, expected) in zip(results, exercise.examples, strict=True)):
        return True, f"Correct on {counted(len(results), 'example')}; grading uses others, too."
    if all(result is None for result in results):
        return False, f"{exercise.name} returns None: is the return statement missing?"
    tried = [(inputs, result) for (inputs, _), result in zip(exercise.examples, results, strict=True)]
    for mistake in exercise.mistakes:
        if all(returns(exercise, mistake.answer, inputs, result) for inputs, result in tried):
            return False, mistake.hint
    return False, _first_difference(exercise, results)


def returns(exercise: Exercise, function: Callable[..., Any], inputs: Inputs, value: Any) -> bool:
    """Return whether a function returns a value; one that raises does not."""
    try:
        return exercise.same(call(function, inputs)[0], value)
    except Exception:  # a known mistake may raise for some inputs
        return False


def _first_difference(exercise: Exercise, results: list[Any]) -> str:
    for (inputs, expected), result in zip(exercise.examples, results, strict=True):
        if not exercise.same(result, expected):
            returned = f"{exercise.name}({_format(inputs)}) returned {_short(result)}"
            kind = _wrong_kind(result, expected)
            return f"{returned}{kind}." if kind else f"{returned}. Work this example by hand and compare."
    return f"Not correct. Asked for: {exercise.question}"


def _wrong_kind(answer: Any, expected: Any) -> str:
    try:
        words = wrong_kind(answer, expected)
    except RecursionError:
        return ""
    return f": {words}" if words else ""


def _format(inputs: tuple[Any, ...]) -> str:
    return ", ".join(_short(value) for value in inputs)


def _short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # Python writes no integer of more than 4,300 digits; an object's own repr may fail
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"


def find_exercise(name: str, folder: Path | None = None) -> Exercise:
    """Return an exercise by name: one of the course's, or of an ``exercises.py`` in a folder."""
    if name in _course_exercises():  # works even if a student's unrelated exercises.py does not run
        return _course_exercises()[name]
    known = known_exercises(folder)
    if name not in known:
        raise ArgumentError(f"unknown exercise {name!r}: choose one of {', '.join(known)}")
    return known[name]


def known_exercises(folder: Path | None = None) -> dict[str, Exercise]:
    """Return all exercises by name: the course's, and those of an ``exercises.py`` in a folder."""
    path = folder / OWN_EXERCISES if folder else None
    if path is None or not path.is_file():
        return _course_exercises()
    return {**_course_exercises(), **_own_exercises(path, path.stat().st_mtime_ns)}


@cache
def _course_exercises() -> dict[str, Exercise]:
    names = sorted(info.name for info in pkgutil.iter_modules(exercises.__path__))
    modules = [importlib.import_module(f"{exercises.__name__}.{name}") for name in names]
    return _by_name([exercise for module in modules for exercise in module.EXERCISES])


@lru_cache(maxsize=8)
def _own_exercises(path: Path, _changed: int) -> dict[str, Exercise]:
    try:
        found = runpy.run_path(str(path))["EXERCISES"]
    except KeyError:
        raise ArgumentError(f"{path} has no EXERCISES: define it as a tuple of labkit.course.Exercise") from None
    except Exception as error:  # the author's own file
        raise ArgumentError(f"{path} does not run: {type(error).__name__}: {error}") from error
    if not isinstance(found, (tuple, list)) or not all(isinstance(exercise, Exercise) for exercise in found):
        raise ArgumentError(f"{path}: EXERCISES must be a tuple of labkit.course.Exercise")
    if taken := _course_exercises().keys() & {exercise.name for exercise in found}:
        raise ArgumentError(f"{path}: the course already has an exercise {min(taken)!r}: give yours another name")
    return _by_name(found)


def _by_name(found: Sequence[Exercise]) -> dict[str, Exercise]:
    names = Counter(exercise.name for exercise in found)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ArgumentError(f"two exercises are named {twice[0]!r}: rename one")
    return {exercise.name: exercise for exercise in found}
