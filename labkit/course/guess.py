"""Read a guess as a person means it: the separators of any country, fractions, thousands and millions, other units."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"(?<!\w)[-+]?[.,]?\d(?:[\d.,'’_]|[ ](?=\d{3}(?!\d)))*(?:[eE][-+]?\d+)?")
_FRACTION = re.compile(r"[-+]?\d+ ?/ ?\d+")
_TYPED = str.maketrans({**dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"), **dict.fromkeys("\u00a0\u202f\u2009", " ")})
_MANY = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "thousand": 1e3, "million": 1e6, "billion": 1e9}
_BYTES = {"bytes": 1.0, "byte": 1.0, "b": 1.0}
_BYTES |= {f"{prefix}b": 1e3**power for power, prefix in enumerate("kmgt", start=1)}
_BYTES |= {f"{prefix}ib": 1024.0**power for power, prefix in enumerate("kmgt", start=1)}
_SECONDS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "minute": 60.0, "minutes": 60.0}
_SHARES = {"%": 0.01, "percent": 0.01, "times": 1.0}


def read_guess(text: str, unit: str = "") -> list[float]:
    """Return what a text can mean in a unit: nothing, one number, or several (1.200 is 1.2 or 1200).

    "1,200", "1.200,5", "1 200", "0,5", "3/4", "−4", "2e9", "20k" and "about 50 tokens" are read as people mean them.
    "1.5 GiB" is 1,536 in MiB, and nothing in tokens; "1/2" is 50 in %.
    """
    text = text.translate(_TYPED)
    if len(fractions := _FRACTION.findall(text)) == 1 and not re.search(r"\d", _FRACTION.sub("", text)):
        above, below = map(float, fractions[0].split("/"))
        found = [above / below] if below else []
        behind = text.partition(fractions[0])[2] or ("times" if unit.startswith("%") else "")
    else:
        matches = list(_NUMBER.finditer(text))
        found = [value for match in matches for value in _values(match[0].rstrip(".,"))]
        if len(matches) != 1 or re.search(r"\d", _NUMBER.sub("", text)):
            return found if len(matches) > 1 else []
        behind = text[matches[0].end() :]
    factor = _factor(behind, unit)
    return [value * factor for value in found if math.isfinite(value * factor)]


def _factor(typed: str, asked: str) -> float:
    """Return what a number typed in one unit is multiplied with to be in another; NaN if the units do not fit."""
    n_asked, units_asked = _scale(asked)
    if units_asked is _BYTES:  # "1 G" is a GiB where MiB are asked for
        typed = re.sub(r"^ ?([kKMGT])$", r"\1iB" if "iB" in asked else r"\1B", typed.strip())
    n_typed, units_typed = _scale(typed if units_asked is _BYTES else re.sub(r"^ ?B$", "billion", typed.rstrip()))
    if not asked:
        return 1.0 if units_typed else n_typed
    if units_typed is units_asked or (n_typed != 1 and not units_typed and units_asked is _BYTES):
        return n_typed / n_asked
    return math.nan if units_typed else n_typed


def _scale(text: str) -> tuple[float, dict[str, float] | None]:
    """Return how much a unit is, and the units that it belongs to: "million bytes" are 1e6 of bytes."""
    factor = 1.0
    for word in re.findall(r"[^\W\d_]+|%", text.partition("/")[0]):
        for units in (_BYTES, _SECONDS, _SHARES):
            if word.lower() in units and word not in _MANY:
                return factor * units[word.lower()], units
        if word not in _MANY:
            break
        factor *= _MANY[word]
    return factor, None


def _values(number: str) -> list[float]:
    """Return what a number can mean, by its separators."""
    mantissa, exponent = re.fullmatch(r"(.*?)((?:[eE][-+]?\d+)?)", number).groups()  # type: ignore[union-attr]
    bare = re.sub(r"[ '’_]", "", mantissa)
    last = max(bare, key=lambda char: bare.rfind(char) if char in ".," else -1)
    whole = float(re.sub(r"[.,]", "", bare) + exponent)
    if last not in ".,":
        return [whole]
    other = "." if last == "," else ","
    decimal = bare.replace(other, "").replace(last, ".")
    grouped = r"[-+]?[1-9]\d{0,2}(?:%s\d{3})+"
    if other in bare:
        return (
            [float(decimal + exponent)] if re.fullmatch(grouped % re.escape(other) + rf"{re.escape(last)}\d*", bare) else []
        )
    is_grouped = bare == mantissa and re.fullmatch(grouped % re.escape(last), bare)
    if bare.count(last) > 1 or (is_grouped and last == ","):
        return [whole] if is_grouped else []
    return [float(decimal + exponent), whole] if is_grouped else [float(decimal + exponent)]
