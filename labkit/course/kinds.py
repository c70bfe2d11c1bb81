"""Kinds of plain values: what is wrong about the type of an answer, in words."""

from __future__ import annotations

from typing import Any

from labkit.course.exercise import plain

_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "True or False"),
    ((int, float), "a number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a dict"),
    (bytes, "bytes"),
)
_LAZY = {"generator", "map", "filter", "zip", "range", "reversed", "enumerate", "dict_keys", "dict_values", "dict_items"}
_ADVICE = {
    ("True or False", "a number"): "write 1 and 0",
    ("text", "a number"): "return it without quotes or str()",
    ("bytes", "text"): "decode them",
    ("a list", "a number"): "return the number itself",
    ("a number", "a list"): "return a list, also of one number",
    ("a number", "True or False"): "return the result of the comparison",
}


def wrong_kind(answer: Any, expected: Any) -> str:
    """Return how an answer's type differs from the expected one's, without any value; empty if it does not."""
    answer, expected = plain(answer), plain(expected)
    if isinstance(answer, list) and isinstance(expected, list):
        found = (wrong_kind(*pair) for pair in zip(answer, expected, strict=False))
        return next((f"an item is {words.removeprefix('it is ')}" for words in found if words), "")
    kind, needed = _kind(answer), _kind(expected)
    if kind == needed or not needed:
        return ""
    advice = _ADVICE.get((kind, needed), "")
    if needed == "a list" and type(answer).__name__ in {*_LAZY, "set", "frozenset"}:
        advice = "make a list of it with list()" if type(answer).__name__ in _LAZY else "a set has no order: use a list"
    return f"it is of type {type(answer).__name__}, and {needed} is needed" + (f": {advice}" if advice else "")


def _kind(value: Any) -> str:
    return next((words for kinds, words in _KINDS if isinstance(value, kinds)), "")
