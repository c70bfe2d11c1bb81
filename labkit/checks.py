"""Checks of arguments (numbers in a range, flags, text), and values as shown in messages."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from labkit.errors import ArgumentError, ArgumentTypeError


def check_int(name: str, value: Any, low: int, high: int, *, hint: str = "") -> int:
    """Return an integer in ``low … high``; a bool is refused, an integral NumPy scalar is accepted."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = int(operator.index(value))
    except Exception as error:  # an untrusted __index__ can raise anything
        raise ArgumentTypeError(f"{name} must be an integer, not {shown(value)}{hint}") from error
    if not low <= number <= high:
        given = f"{number:,}" if number.bit_length() < 100 else shown(number)
        raise ArgumentError(f"{name}={given} is out of range: it must be {low:,} to {high:,}{hint}")
    return number


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """Return a finite number in ``low … high`` as a float."""
    try:
        if isinstance(value, (bool, str, bytes)) or (hasattr(value, "ndim") and value.ndim):
            raise TypeError
        number = float(value)
    except Exception as error:  # an untrusted __float__ can raise anything
        raise ArgumentTypeError(f"{name} must be a number, not {shown(value)}") from error
    if not math.isfinite(number) or not low <= number <= high:
        raise ArgumentError(f"{name}={number:g} is out of range: it must be {low:g} to {high:g}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """Return True or False; refuse anything else."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise ArgumentTypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return one of several texts."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        given = repr(value[:60]) if isinstance(value, str) else shown(value)
        raise ArgumentError(f"{name}={given} is unknown: choose {', '.join(known)}")
    return value


def check_items(name: str, value: Any, what: str, *, hint: str = "") -> tuple[Any, ...]:
    """Return the items of a list, tuple or array; texts, mappings, sets, and iterators, which may not end, are refused."""
    try:
        if isinstance(value, (str, bytes, Mapping, Set, Iterator)):
            raise TypeError
        return tuple(value)
    except Exception as error:  # an untrusted __iter__ can raise anything
        raise ArgumentTypeError(f"{name} must be a list of {what}, not {shown(value)}{hint}") from error


def check_json(name: str, value: Any) -> Any:
    """Return a copy of a value as JSON has it: lists, dicts with texts as keys, texts, numbers, True, False and None."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentTypeError(f"{name} must be plain values, as JSON has them: {one_line(error, 100)}") from None


def check_text(name: str, value: Any) -> bytes:
    """Return a text, encoded as UTF-8."""
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{name} must be text (str), not {shown(value)}")
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"{name} has a lone surrogate at position {error.start}, which is not a character: "
            "decode the text with errors='replace'"
        ) from error


def shown(value: Any) -> str:
    """Return a value for an error message: short, in one line, with its type."""
    try:
        text = one_line(repr(value), 40)
    except Exception:  # an untrusted __repr__, or an integer of thousands of digits
        text = "a value"
    return f"{text} ({type(value).__name__})"


def one_line(text: object, limit: int = 300) -> str:
    """Return a text as one line without control characters, truncated."""
    return visible(" ".join(str(text).split()), limit)


def visible(text: object, limit: int | None = 120, keep: str = "") -> str:
    r"""Return untrusted text with control and direction characters escaped, truncated.

    Examples
    --------
    >>> visible("blk.0\x1b[31m\n")
    'blk.0\\x1b[31m\\n'
    """
    text = str(text)
    text = text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that a mistyped one is closest to, or None."""
    import difflib

    return next(iter(difflib.get_close_matches(name[:60], list(known), n=1, cutoff=cutoff)), None)
