"""Exercise: a function or a value that a student writes, with examples, known mistakes, and inputs for grading."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import numbers
import random
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from labkit.course.own_module import Use
from labkit.errors import ArgumentError

Inputs = tuple[Any, ...]
_KINDS: tuple[tuple[type, Any], ...] = ((int, numbers.Integral), (float, (numbers.Real, Decimal)), (str, str))


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A common wrong answer.

    Parameters
    ----------
    hint : str
        What to think about; never the answer.
    answer : object
        The wrong function or value: an answer with the same results gets the hint.
    """

    hint: str
    answer: Any


@dataclasses.dataclass(frozen=True)
class Exercise:
    """The definition of an exercise; its solution is only in the notebook.

    Parameters
    ----------
    name : str
        Name of the function or variable that the student writes, and of the exercise.
    points : int
        Usually one per thing asked for.
    question : str
        One sentence.
    examples : sequence of (inputs, output)
        For a function: arguments as a tuple, and what it returns. For a value: ``((), value)``; no examples are needed if
        ``accepts`` is given.
    inputs : callable of Random, optional
        Draws arguments for grading, which catch a function that works on the examples only. None for a value.
    accepts : callable of value, optional
        For a value that depends on the machine: returns whether it is plausible.
    mistakes : sequence of Mistake
        At least three.
    hints : sequence of str
        From vague to specific, never the answer; each further wrong attempt gets the next one.
    relative, absolute : float
        Tolerances for numbers.
    by_suite : bool
        One of the lab's seven functions: `labkit.conformance` checks it at home. Its inputs begin with a `Use`, which
        grading calls with the answer; it needs no examples, and each mistake's hint is what the suite says about it.

    Raises
    ------
    ArgumentError
        If the parameters are inconsistent.
    """

    name: str
    points: int
    question: str
    examples: Sequence[tuple[Inputs, Any]] = ()
    inputs: Callable[[random.Random], Inputs] | None = None
    accepts: Callable[[Any], bool] | None = None
    mistakes: Sequence[Mistake] = ()
    hints: Sequence[str] = ()
    relative: float = 1e-6
    absolute: float = 1e-9
    by_suite: bool = False

    def __post_init__(self) -> None:
        fault = ""
        if not self.name.isidentifier():
            fault = "its name must be a Python identifier"
        elif not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], tuple) for pair in self.examples):
            fault = "examples must be (tuple of inputs, output) pairs, with a comma after a single pair: (((2,), 4),)"
        elif not self.examples and self.accepts is None and not self.by_suite:
            fault = "it needs examples, or accepts= for a value"
        elif isinstance(self.hints, str):
            fault = "hints must be a tuple of str, with a comma after a single one"
        if fault:
            raise ArgumentError(f"exercise {self.name!r}: {fault}")

    @property
    def is_function(self) -> bool:
        """Whether the answer is a function rather than a value."""
        return self.inputs is not None

    def same(self, answer: Any, expected: Any) -> bool:
        """Return whether an answer equals the expected one: numbers within the tolerance, everything else exactly."""
        try:
            return equal(answer, expected, relative=self.relative, absolute=self.absolute)
        except (RecursionError, OverflowError):  # a list that contains itself, an integer larger than any float
            return False

    def draw_inputs(self, seed: int) -> list[Inputs]:
        """Return arguments for grading, eight or, where a model computes, three; the same seed gives the same arguments."""
        if self.inputs is None:
            return []
        generator = random.Random(f"{self.name}-{seed}")  # noqa: S311  # inputs of an exercise, not a secret
        return [self.inputs(generator) for _ in range(3 if self.by_suite else 8)]

    def inputs_to_try(self, seed: int) -> list[Inputs] | None:
        """Return the inputs of the examples (including edge cases) and those drawn for grading; None for a value."""
        return [*(inputs for inputs, _ in self.examples), *self.draw_inputs(seed)] if self.is_function else None


def equal(answer: Any, expected: Any, *, relative: float, absolute: float) -> bool:
    """Return whether two plain values are equal; only built-in types count, as an object's ``==`` may lie."""
    answer, expected = plain(answer), plain(expected)
    if isinstance(answer, bool) or isinstance(expected, bool):
        return answer is expected
    if isinstance(answer, (int, float)) and isinstance(expected, (int, float)):
        return answer == expected or math.isclose(answer, expected, rel_tol=relative, abs_tol=absolute)
    if type(answer) is not type(expected):
        return False
    same = functools.partial(equal, relative=relative, absolute=absolute)
    if isinstance(answer, list):
        return len(answer) == len(expected) and all(map(same, answer, expected))
    if isinstance(answer, dict):
        return answer.keys() == expected.keys() and all(same(answer[key], expected[key]) for key in answer)
    return type(answer) in (str, bytes, type(None)) and bool(answer == expected)


def plain(value: Any) -> Any:
    """Convert numbers, text, lists and dicts of any kind to Python's built-in types; return other objects unchanged.

    NumPy arrays and scalars become lists and numbers, tuples lists, decimals and fractions floats, a subclass of ``int`` an
    ``int``.
    """
    if isinstance(value, bool) or value is None:
        return value
    with contextlib.suppress(ValueError, OverflowError):  # a signaling NaN, a fraction beyond all floats
        for kind, kinds in _KINDS:
            if isinstance(value, kinds):
                return kind(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    converted = value.tolist() if callable(getattr(value, "tolist", None)) else value
    return value if type(converted) is type(value) else plain(converted)


def fresh(value: Any) -> Any:
    """Return a copy that shares no list, dict or array with the value, nor within itself."""
    if type(value) in (list, tuple):
        return type(value)(map(fresh, value))
    if type(value) is dict:
        return {key: fresh(item) for key, item in value.items()}
    return copy.deepcopy(value)


def call(function: Callable[..., Any], inputs: Inputs) -> tuple[Any, bool]:
    """Call an answer on fresh copies; return its plain value as of now, and whether it changed what it was given."""
    given = fresh(inputs)
    is_used = inputs and isinstance(inputs[0], Use)
    value = plain(given[0](function, *given[1:]) if is_used else function(*given))
    return value, repr(plain(given)) != repr(plain(inputs))
