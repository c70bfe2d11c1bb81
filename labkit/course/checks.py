"""check("name"): whether an answer is right, at once, and what may be wrong; it never tells the answer."""

from __future__ import annotations

import dataclasses
import html
import importlib
import os
import pkgutil
import runpy
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from labkit.course import exercises
from labkit.course.exercise import Exercise, Mistake
from labkit.errors import ArgumentError

__all__ = ["OWN_EXERCISES", "CheckResult", "check", "find_exercise", "judge", "known_exercises"]

OWN_EXERCISES = "exercises.py"
_UNDER_NBGRADER = "NBGRADER_EXECUTION"  # the environment variable that nbgrader sets while it grades or validates

_STUB_NAMES = (NotImplementedError,)
_BLANK = "Nothing is written there yet: replace the placeholder by your answer."
_WRONG: Counter[str] = Counter()  # attempts at an exercise since the last right one


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What `check` says.

    Parameters
    ----------
    name : str
        Of the exercise.
    passed : bool
    message : str
        What was right, or what to look at.
    points : int
        Of the exercise; grading gives them, on other inputs too.
    """

    name: str
    passed: bool
    message: str
    points: int

    def __repr__(self) -> str:
        mark = "right" if self.passed else "not yet"
        return f"{self.name}: {mark}. {self.message}"

    def _repr_html_(self) -> str:
        mark = "✔ right" if self.passed else "✘ not yet"
        return f"<p><strong>{html.escape(self.name)}: {mark}.</strong> {html.escape(self.message)}</p>"


def check(name: str, answer: Any = ...) -> CheckResult:
    """Say whether the answer to an exercise is right.

    The first wrong attempt is told what is wrong with it; each further one gets one more of the exercise's hints.

    Parameters
    ----------
    name : str
        Of the exercise, and of the function or variable that answers it. Exercises are the course's, and those of an
        ``exercises.py`` in the working directory, which is the notebook's folder.
    answer : object, optional
        The answer itself; what has that name in the notebook by default.

    Returns
    -------
    CheckResult
        As the last line of a cell it shows one line.

    Raises
    ------
    ArgumentError
        When there is no such exercise, or ``exercises.py`` does not run.
    AssertionError
        When the answer is wrong and nbgrader runs the cell: a cell that raises nothing gets all its points there.
    """
    exercise = find_exercise(name, Path.cwd())
    if answer is ...:
        names: Mapping[str, Any] = sys._getframe(1).f_globals
        if name not in names:
            message = f"There is no {name!r} yet: run the cell that defines it first."
            return _told(CheckResult(name, False, message, exercise.points))
        answer = names[name]
    passed, message = judge(exercise, answer)
    if message != _BLANK:
        message += _next_hint(exercise, passed)
    return _told(CheckResult(name, passed, message, exercise.points))


def _told(result: CheckResult) -> CheckResult:
    """Return a result; under nbgrader a wrong one is raised."""
    if not result.passed and _UNDER_NBGRADER in os.environ:
        raise AssertionError(repr(result))
    return result


def _next_hint(exercise: Exercise, passed: bool) -> str:
    """Return the hint that is due after so many wrong attempts in this session, or an empty text."""
    _WRONG[exercise.name] = 0 if passed else _WRONG[exercise.name] + 1
    number = min(_WRONG[exercise.name] - 1, len(exercise.hints))
    return f" Hint {number} of {len(exercise.hints)}: {exercise.hints[number - 1]}" if number > 0 else ""


def judge(exercise: Exercise, answer: Any) -> tuple[bool, str]:
    """Return whether an answer is right for the examples, and what to say of it."""
    if answer is None or answer is ...:
        return False, _BLANK
    if exercise.is_function:
        return _judge_function(exercise, answer)
    return _judge_value(exercise, answer)


def _judge_value(exercise: Exercise, answer: Any) -> tuple[bool, str]:
    if callable(answer):
        return False, f"{exercise.name} should be a value, and it is a function: did you forget to call it?"
    if exercise.accepts is not None:
        right = _holds(exercise, answer)
    else:
        right = any(exercise.same(answer, expected) for _, expected in exercise.examples)
    if right:
        return True, "That is it."
    for mistake in exercise.mistakes:
        if exercise.same(answer, mistake.answer):
            return False, mistake.hint
    return False, f"Not what was asked for: {exercise.question}"


def _holds(exercise: Exercise, answer: Any) -> bool:
    try:
        return exercise.accepts is not None and exercise.accepts(answer) is True
    except Exception:  # a value of the wrong type
        return False


def _judge_function(exercise: Exercise, answer: Any) -> tuple[bool, str]:
    if not callable(answer):
        return False, f"{exercise.name} should be a function, and it is {type(answer).__name__}."
    results = []
    for inputs, _ in exercise.examples:
        try:
            results.append(answer(*inputs))
        except _STUB_NAMES:
            return False, _BLANK
        except Exception as error:
            return False, f"{exercise.name}({_shown(inputs)}) raised {type(error).__name__}: {' '.join(str(error).split())}"
    if all(exercise.same(result, expected) for result, (_, expected) in zip(results, exercise.examples, strict=True)):
        return True, f"That is it, for {len(results)} examples; grading tries others."
    if all(result is None for result in results):
        return False, f"{exercise.name} returns nothing: does its last line say return?"
    for mistake in exercise.mistakes:
        if _same_results(exercise, mistake, results):
            return False, mistake.hint
    return False, _first_difference(exercise, results)


def _same_results(exercise: Exercise, mistake: Mistake, results: list[Any]) -> bool:
    try:
        expected = [mistake.answer(*inputs) for inputs, _ in exercise.examples]
    except Exception:  # a mistake that raises for some inputs is told by its own error
        return False
    return all(exercise.same(result, wrong) for result, wrong in zip(results, expected, strict=True))


def _first_difference(exercise: Exercise, results: list[Any]) -> str:
    for (inputs, expected), result in zip(exercise.examples, results, strict=True):
        if not exercise.same(result, expected):
            kind = "" if type(result) is type(expected) else f", of type {type(result).__name__}"
            return (
                f"{exercise.name}({_shown(inputs)}) gave {_short(result)}{kind}. Work this example out by hand and compare."
            )
    return f"Not what was asked for: {exercise.question}"


def _shown(inputs: tuple[Any, ...]) -> str:
    return ", ".join(_short(value) for value in inputs)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "…"


def find_exercise(name: str, folder: Path | None = None) -> Exercise:
    """Return an exercise by its name.

    Parameters
    ----------
    name : str
    folder : Path, optional
        Where an ``exercises.py`` can be.

    Raises
    ------
    ArgumentError
        When there is none.
    """
    if name in _course_exercises():  # whatever else a student calls exercises.py
        return _course_exercises()[name]
    known = known_exercises(folder)
    if name not in known:
        raise ArgumentError(f"there is no exercise {name!r}: it is one of {', '.join(known)}")
    return known[name]


def known_exercises(folder: Path | None = None) -> dict[str, Exercise]:
    """Return all exercises, by name: the course's, and those of an ``exercises.py`` in a folder.

    Raises
    ------
    ArgumentError
        When that file does not run, or has an exercise of a name that is there already.
    """
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
        raise ArgumentError(f"{path} has no EXERCISES: a tuple of labkit.course.Exercise") from None
    except Exception as error:  # the author's own file
        raise ArgumentError(f"{path} does not run: {type(error).__name__}: {error}") from error
    if not isinstance(found, (tuple, list)) or not all(isinstance(exercise, Exercise) for exercise in found):
        raise ArgumentError(f"{path}: EXERCISES is a tuple of labkit.course.Exercise")
    if taken := _course_exercises().keys() & {exercise.name for exercise in found}:
        raise ArgumentError(f"{path}: the course has an exercise {min(taken)!r} already: give yours another name")
    return _by_name(found)


def _by_name(found: Sequence[Exercise]) -> dict[str, Exercise]:
    names = Counter(exercise.name for exercise in found)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ArgumentError(f"two exercises are called {twice[0]!r}")
    return {exercise.name: exercise for exercise in found}
