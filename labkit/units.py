"""Format bytes, rates and times as readable text, and parse sizes.

Sizes are written in binary units (1 KiB = 1,024 bytes), as in llama.cpp's log.
"""

from __future__ import annotations

import re

from labkit.checks import check_number
from labkit.errors import ArgumentError

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_FACTORS = {
    **{unit.lower(): 1024**power for power, unit in enumerate(_BINARY)},
    **{unit[0].lower(): 1024**power for power, unit in enumerate(_BINARY)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", start=1)},
    "": 1,
}


def format_bytes(n_bytes: int | float) -> str:
    """Format a size in the largest binary unit that keeps it at or above 1.

    Examples
    --------
    >>> format_bytes(512), format_bytes(96_576_768), format_bytes(4_180_000_000)
    ('512 B', '92.1 MiB', '3.89 GiB')
    """
    value, power = float(n_bytes), 0
    while abs(value) >= 1023.95 and power < len(_BINARY) - 1:
        value, power = value / 1024, power + 1
    if power == 0:
        return f"{n_bytes:,.0f} B"
    digits = 2 if power >= 3 and abs(value) < 100 else 1
    return f"{value:,.{digits}f} {_BINARY[power]}"


def parse_bytes(text: str | float) -> int:
    """Parse a size: ``"8 GiB"``, ``"8G"``, ``"500 MB"`` (decimal) or a plain number of bytes.

    Examples
    --------
    >>> parse_bytes("2 KiB"), parse_bytes("2K"), parse_bytes("2 kB"), parse_bytes("7")
    (2048, 2048, 2000, 7)
    """
    if not isinstance(text, str):
        return int(check_number("a size", text, 0, 2.0**63))
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if match is None or match[2].lower() not in _FACTORS:
        raise ArgumentError(f"{text[:60]!r} is not a size: write for example '8 GiB', '500 MB' or a number of bytes")
    return int(float(match[1]) * _FACTORS[match[2].lower()])


def format_count(count: int | float) -> str:
    """Format a count of weights or tokens, rounded.

    Examples
    --------
    >>> format_count(134_515_008), format_count(6_738_415_616), format_count(950)
    ('135M', '6.74B', '950')
    """
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(count) >= limit:
            value = count / limit
            return f"{value:.0f}{letter}" if value >= 100 else f"{value:.3g}{letter}"
    return f"{count:g}"


def counted(number: int | float, noun: str) -> str:
    """Format an exact number of things, with the noun's singular or plural.

    Examples
    --------
    >>> counted(1, "token"), counted(49_152, "token"), counted(0.5, "point")
    ('1 token', '49,152 tokens', '0.5 points')
    """
    return f"{number:,.12g} {noun}{'' if number == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Format a time with a suitable unit.

    Examples
    --------
    >>> format_duration(0.00042), format_duration(0.031), format_duration(2.5), format_duration(75)
    ('420 µs', '31 ms', '2.50 s', '1 min 15 s')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def format_rate(per_second: float, noun: str = "tokens") -> str:
    """Format a rate, with more digits where it is small.

    Examples
    --------
    >>> format_rate(104.96), format_rate(3.614)
    ('105 tokens/s', '3.6 tokens/s')
    """
    return f"{per_second:.0f} {noun}/s" if per_second >= 100 else f"{per_second:.1f} {noun}/s"


def round_up(number: int, multiple: int) -> int:
    """Return the next multiple; a multiple itself stays."""
    return -(-number // multiple) * multiple
