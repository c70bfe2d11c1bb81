"""Regular expressions in JSON schemas -> GBNF of matching JSON strings; GBNF literals."""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any

_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_BRIEF_ERROR = "'pattern' is not a supported regular expression: "


def quote(text: str) -> str:
    r"""Write a text as a GBNF literal."""
    return '"' + "".join(_char(char) for char in text) + '"'


def grammar_of_pattern(pattern: str) -> str:
    """Return GBNF for the content of a JSON string that a regular expression fully matches.

    Raise ValueError if it is not a regular expression, or has lookaround, back-references or word boundaries.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Python's parser of regular expressions: sre_parse until 3.10, part of re since.
            tree = importlib.import_module("re._parser" if hasattr(re, "_parser") else "sre_parse").parse(pattern)
        return _sequence(list(tree))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(_BRIEF_ERROR + " ".join(str(error).split())[:150]) from error


def _sequence(items: list[Any]) -> str:
    return " ".join(text for text in map(_one, items) if text) or '""'


def _one(item: tuple[Any, Any]) -> str:
    kind, value = str(item[0]), item[1]
    if kind == "LITERAL":
        return quote(_in_json(chr(value)))
    if kind in ("IN", "NOT_LITERAL", "ANY"):
        return _class(kind, value)
    if kind == "SUBPATTERN":
        return f"({_sequence(list(value[-1]))})"
    if kind == "BRANCH":
        return "(" + " | ".join(_sequence(list(branch)) for branch in value[1]) + ")"
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = value
        upper = "" if str(most) == "MAXREPEAT" else str(int(most))
        return f"({_sequence(list(inner))}){{{int(least)},{upper}}}"
    if kind == "AT" and str(value) in ("AT_BEGINNING", "AT_END", "AT_BEGINNING_STRING", "AT_END_STRING"):
        return ""
    raise ValueError(f"{_BRIEF_ERROR}it uses {kind.lower()}")


def _class(kind: str, value: Any) -> str:
    """Write a set of characters: literal where JSON allows it, else escaped."""
    items = [] if kind == "ANY" else [("LITERAL", value)] if kind == "NOT_LITERAL" else [(str(k), v) for k, v in value]
    negated = kind != "IN" or (bool(items) and items[0][0] == "NEGATE")
    ranges = [bounds for name, bound in items if name != "NEGATE" for bounds in _ranges(name, bound)]
    if negated:
        ranges = _complement(ranges if kind != "ANY" else [(10, 10), (13, 13)])
    safe = _without_unsafe(ranges)
    plain = "".join(_code(low) if low == high else f"{_code(low)}-{_code(high)}" for low, high in safe)
    escaped = [quote(text) for char, text in _ESCAPED.items() if any(low <= ord(char) <= high for low, high in ranges)]
    texts = ([f"[{plain}]"] if plain else []) + escaped
    if not texts:
        raise ValueError(f"{_BRIEF_ERROR}it has a set without characters")
    return texts[0] if len(texts) == 1 else f"({' | '.join(texts)})"


def _ranges(name: str, value: Any) -> list[tuple[int, int]]:
    if name == "LITERAL":
        return [(value, value)]
    if name == "RANGE":
        return [(value[0], value[1])]
    digits, letters = (48, 57), [(65, 90), (95, 95), (97, 122)]
    spaces = [(9, 10), (12, 13), (32, 32)]
    sets = {"DIGIT": [digits], "WORD": [digits, *letters], "SPACE": spaces}
    which = str(value).removeprefix("CATEGORY_")
    if which.removeprefix("NOT_") not in sets:
        raise ValueError(f"{_BRIEF_ERROR}it uses {which.lower()}")
    found = sets[which.removeprefix("NOT_")]
    return _complement(found) if which.startswith("NOT_") else found


def _complement(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            result.append((start, low - 1))
        start = max(start, high + 1)
    return [*result, (start, 0x10FFFF)] if start <= 0x10FFFF else result


def _without_unsafe(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    unsafe = _complement([(0, 31), (34, 34), (92, 92), (127, 127), (0xD800, 0xDFFF)])
    pairs = [(max(a, c), min(b, d)) for a, b in ranges for c, d in unsafe]
    return [(low, high) for low, high in pairs if low <= high]


def _code(code: int) -> str:
    return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\U{code:08X}"


def _char(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() or char > "\x7f" else f"\\x{ord(char):02X}"


def _in_json(char: str) -> str:
    return _ESCAPED.get(char, char if char >= " " and char != "\x7f" else f"\\u{ord(char):04x}")
