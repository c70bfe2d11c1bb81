"""Regular expressions in JSON schemas -> GBNF of matching JSON strings; GBNF literals."""

from __future__ import annotations

import functools
import importlib
import re
import unicodedata
import warnings
from typing import Any

_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_BRIEF_ERROR = "'pattern' is not a supported regular expression: "
# Escapes, sets and repetitions that Python and ECMA 262 read differently.
_OTHER = re.compile(r"(?<!\\)(?:\\\\)*(\\(?:[aAzZNU]|[0-9]{2})|(?<!\[)\[\^?\]|\{,)")
_NAMED = re.compile(r"\(\?<(?![=!])")


def quote(text: str) -> str:
    r"""Write a text as a GBNF literal."""
    return '"' + "".join(_char(char) for char in text) + '"'


def grammar_of_pattern(pattern: str, least: int = 0, most: int | None = None) -> str:
    r"""Return GBNF for the content of a JSON string that a regular expression fully matches, ``least`` to ``most`` long.

    ECMA 262, Python and others differ in ``\d``, ``\w`` and ``\s``: here these are what all of them accept, and ``\D``,
    ``\W``, ``\S`` what none of them excludes. Raise ValueError if it is not a regular expression, has lookaround,
    back-references, word boundaries or what the dialects read differently, or cannot be joined with the lengths.
    """
    if (other := _OTHER.search(pattern)) is not None:
        raise ValueError(f"{_BRIEF_ERROR}dialects differ on {other[0]!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Python's parser of regular expressions: sre_parse until 3.10, part of re since.
            parser = importlib.import_module("re._parser" if hasattr(re, "_parser") else "sre_parse")
            tree = parser.parse(_NAMED.sub("(?P<", pattern))
        if tree.state.flags != re.UNICODE:
            raise ValueError(f"{_BRIEF_ERROR}it has flags")
        return _sequence(_of_length(list(tree), tree, least, most), (True, True))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(_BRIEF_ERROR + " ".join(str(error).split())[:150]) from error


def _of_length(items: list[Any], tree: Any, least: int, most: int | None) -> list[Any]:
    """Narrow the one item of variable length, such as ``[a-z]+``, so that the whole has the lengths."""
    shortest, longest = tree.getwidth()
    if shortest >= least and (most is None or longest <= most):
        return items
    widths = [_width(item) for item in items]
    variable = [index for index, width in enumerate(widths) if width is None]
    if len(variable) == 1 and str((item := items[variable[0]])[0]) in ("MAX_REPEAT", "MIN_REPEAT"):
        low, high, inner = item[1]
        size = [_width(part) for part in inner]
        if sum(1 if part is None else part for part in size) == 1 and None not in size:
            fixed = sum(width or 0 for width in widths)
            low = max(low, least - fixed)
            high = high if most is None else min(int(high), most - fixed)
            if low <= int(high):
                return [*items[: variable[0]], (item[0], (low, high, inner)), *items[variable[0] + 1 :]]
    raise ValueError("'pattern' and the bounds on the length cannot be combined")


def _width(item: tuple[Any, Any]) -> int | None:
    """Return the number of characters of an item, None where it varies."""
    kind, value = str(item[0]), item[1]
    if kind in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
        return 1
    if kind == "AT":
        return 0
    if kind in ("MAX_REPEAT", "MIN_REPEAT") and int(value[0]) == int(value[1]):
        sizes = [_width(part) for part in value[2]]
        return None if None in sizes else int(value[0]) * sum(size or 0 for size in sizes)
    if kind == "SUBPATTERN":
        sizes = [_width(part) for part in value[-1]]
        return None if None in sizes else sum(size or 0 for size in sizes)
    return None


def _sequence(items: list[Any], edges: tuple[bool, bool]) -> str:
    """Write items; ``edges``: whether ``^`` may be here as the first and ``$`` as the last."""
    last = len(items) - 1
    texts = (_one(item, (edges[0] and index == 0, edges[1] and index == last)) for index, item in enumerate(items))
    return " ".join(text for text in texts if text) or '""'


def _one(item: tuple[Any, Any], edges: tuple[bool, bool]) -> str:
    kind, value = str(item[0]), item[1]
    if kind == "LITERAL":
        return quote(_in_json(chr(value)))
    if kind in ("IN", "NOT_LITERAL", "ANY"):
        return _class(kind, value)
    if kind == "SUBPATTERN":
        if value[1] or value[2]:
            raise ValueError(f"{_BRIEF_ERROR}it has flags")
        return f"({_sequence(list(value[-1]), edges)})"
    if kind == "BRANCH":
        return "(" + " | ".join(_sequence(list(branch), edges) for branch in value[1]) + ")"
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = value
        upper = "" if str(most) == "MAXREPEAT" else str(int(most))
        return f"({_sequence(list(inner), (False, False))}){{{int(least)},{upper}}}"
    if kind == "AT" and {"AT_BEGINNING": edges[0], "AT_END": edges[1]}.get(str(value), False):
        return ""
    if kind == "AT" and str(value) in ("AT_BEGINNING", "AT_END"):
        raise ValueError(f"{_BRIEF_ERROR}it has ^ or $ inside")
    raise ValueError(f"{_BRIEF_ERROR}it uses {kind.lower()}")


def _class(kind: str, value: Any) -> str:
    """Write a set of characters: literal where JSON allows it, else escaped."""
    items = [("LITERAL", value)] if kind == "NOT_LITERAL" else [] if kind == "ANY" else [(str(k), v) for k, v in value]
    negated = kind != "IN" or items[0][0] == "NEGATE"
    ranges = [bounds for name, bound in items if name != "NEGATE" for bounds in _ranges(name, bound, negated)]
    if negated:
        ranges = _complement(ranges if kind != "ANY" else [(10, 10), (13, 13), (0x2028, 0x2029)])
    safe = _without_unsafe(ranges)
    plain = "".join(_code(low) if low == high else f"{_code(low)}-{_code(high)}" for low, high in safe)
    escaped = [quote(text) for char, text in _ESCAPED.items() if any(low <= ord(char) <= high for low, high in ranges)]
    texts = ([f"[{plain}]"] if plain else []) + escaped
    if not texts:
        raise ValueError(f"{_BRIEF_ERROR}it has a set without characters")
    return texts[0] if len(texts) == 1 else f"({' | '.join(texts)})"


def _ranges(name: str, value: Any, widest: bool) -> list[tuple[int, int]]:
    """Return the characters of a part of a set: those that any dialect includes (``widest``), or that all include."""
    if name == "LITERAL":
        return [(value, value)]
    if name == "RANGE":
        return [(value[0], value[1])]
    which = str(value).removeprefix("CATEGORY_")
    if which.removeprefix("NOT_") not in _NARROW:
        raise ValueError(f"{_BRIEF_ERROR}it uses {which.lower()}")
    if which.startswith("NOT_"):
        which = which.removeprefix("NOT_")
        return _complement(list(_NARROW[which] if widest else _wide(which)))
    return list(_wide(which) if widest else _NARROW[which])


_NARROW = {
    "DIGIT": ((48, 57),),
    "WORD": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "SPACE": ((9, 10), (12, 13), (32, 32), (0xA0, 0xA0), (0x2028, 0x2029), (0x3000, 0x3000)),
}


@functools.cache
def _wide(which: str) -> tuple[tuple[int, int], ...]:
    """Return the characters that some dialect, or a later Unicode, counts as digits, word characters or spaces."""
    if which == "SPACE":  # Python's, ECMA 262's, and those of older Unicodes
        more = (0x85, 0x180E, 0x200B, 0x2060, 0xFEFF)
        codes = [code for code in range(0x3001) if chr(code).isspace() or code in more] + [0xFEFF]
    else:
        # A digit or a word character; marks and joiners are word characters to some, unassigned characters may become so.
        kinds = ("Nd", "Cn") if which == "DIGIT" else ("L", "M", "N", "Pc", "Cn", "Cf", "Co")
        codes = [code for code in range(0x110000) if unicodedata.category(chr(code)).startswith(kinds)]
    ranges: list[tuple[int, int]] = []
    gap = {"SPACE": 1, "DIGIT": 256, "WORD": 32}[
        which
    ]  # short gaps are filled: hundreds of ranges would slow every token down
    for code in codes:
        if ranges and code - ranges[-1][1] <= (gap if code > 0xFF else 1):
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return tuple(ranges)


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
