"""What a chapter's text states in bold about its outputs, and whether the outputs agree.

A "What you should see" cell writes in bold what can be compared: ``**45 MiB**``, ``**10 to 100 GiB/s**``, ``**above 1**``.
It is compared with the numbers with that unit in the outputs since the last such cell; without a unit, with the figures
that predictions were compared with ("measured 1.8 times …"). A range or limit holds for all of them, a single number for
one of them, to its last digit; "about" allows a fifth more or less.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_LIMITS = {"above": 1, "more than": 1, "at least": 1, "below": -1, "less than": -1, "fewer than": -1, "at most": -1}
_WORD = "|".join(_LIMITS)
_STATED = re.compile(rf"\*\*(?:({_WORD}|about) )?({_NUMBER})(?: to ({_NUMBER}))?(?: ?([^\d*]+?))?\*\*")
# A range that is not in bold would not be compared.
NOT_COMPARED = re.compile(rf"(?<![*\d.,])\b(?:at (?:least|most) {_NUMBER}|{_NUMBER} to {_NUMBER})", re.IGNORECASE)
_UNITS = {"tokens per second": "tokens/s"}


@dataclasses.dataclass(frozen=True)
class Statement:
    """A quantity in bold."""

    text: str
    low: float
    high: float
    unit: str = ""
    is_exact: bool = False


def statements(text: str) -> list[Statement]:
    """Return the quantities that are in bold in a text, in order."""
    found = []
    for match in _STATED.finditer(text):
        word, first, second, unit = match.groups()
        low = _value(first)
        high = _value(second) if second else low
        half = 0.5 * 10.0 ** -len(first.partition(".")[2]) * (1 + 1e-9)
        if word in _LIMITS:
            low, high = (low, math.inf) if _LIMITS[word] > 0 else (-math.inf, low)
        elif word == "about":
            low, high = 0.8 * low, 1.2 * high
        elif not second:
            low, high = low - half, high + half
        unit = (unit or "").strip()
        found.append(Statement(match[0].strip("*"), low, high, _UNITS.get(unit, unit), not word and not second))
    return found


def contradictions(text: str, outputs: Iterable[str]) -> list[str]:
    """Return what a text states in bold and these outputs do not confirm."""
    printed = "\n".join(outputs)
    found = []
    for stated in statements(text):
        pattern = rf"({_NUMBER}) ?{re.escape(stated.unit)}(?![\w/])" if stated.unit else rf"\bmeasured ({_NUMBER})"
        values = [_value(number) for number in re.findall(pattern, printed)]
        agree = [stated.low <= value <= stated.high for value in values]
        if not (any(agree) if stated.is_exact else values and all(agree)):
            found.append(f"{stated.text}: the outputs have {values}")
    return found


def _value(number: str) -> float:
    return float(number.replace(",", ""))
