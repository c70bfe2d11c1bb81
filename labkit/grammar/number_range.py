"""Numbers between two bounds, as GBNF over their digits."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

DIGITS = 16
# Decimal numbers of up to 15 digits differ as doubles too, so rounding never takes one over a bound.
_EXACT = 15
_MIDDLE = 10**7
_LARGEST = 10**20 - 1  # includes the 64-bit integers, with and without a sign
_PRECISE = Context(prec=400)
_Bound = float | None
_Limit = tuple[Decimal, bool] | None  # a bound, and whether it is exclusive


def integer_range(minimum: _Bound = None, maximum: _Bound = None, above: _Bound = None, below: _Bound = None) -> str | None:
    """Return a grammar of the integers within the bounds (``above`` and ``below`` are exclusive), or None for no integer.

    Bounds of more than 20 digits are lowered to 20.
    """
    lows = [*([math.ceil(minimum)] if minimum is not None else []), *([math.floor(above) + 1] if above is not None else [])]
    highs = [*([math.floor(maximum)] if maximum is not None else []), *([math.ceil(below) - 1] if below is not None else [])]
    low = max(*lows, -_LARGEST) if lows else None
    high = min(*highs, _LARGEST) if highs else None
    if low is not None and low > _LARGEST:
        return None
    texts = []
    if low is None or low < 0:
        negative = _whole(max(1, -high) if high is not None else 1, None if low is None else -low)
        texts += [f'"-" {text}' for text in negative]
    if high is None or high >= 0:
        texts += _whole(max(low or 0, 0), high)
    return _either(texts)


def number_range(minimum: _Bound = None, maximum: _Bound = None, above: _Bound = None, below: _Bound = None) -> str | None:
    """Return a grammar of the decimal numbers of up to 15 digits within the bounds, or None for none."""
    lows = [(_decimal(bound), bound is above) for bound in (minimum, above) if bound is not None]
    highs = [(_decimal(bound), bound is below) for bound in (maximum, below) if bound is not None]
    low: _Limit = max(lows, default=None)
    high: _Limit = min(highs, key=lambda limit: (limit[0], not limit[1]), default=None)
    texts = _at_least_zero(low, high)
    negative = _at_least_zero(_negated(high), _negated(low))
    return _either([*texts, *(f'"-" {text}' for text in negative)])


def _decimal(bound: float) -> Decimal:
    """Return a bound as it is written; a large one as it is, since integers are compared with that."""
    return Decimal(bound) if abs(bound) >= 10**_EXACT else Decimal(repr(bound))


def _negated(limit: _Limit) -> _Limit:
    return None if limit is None else (-limit[0], limit[1])


def _at_least_zero(low: _Limit, high: _Limit) -> list[str]:
    """Return grammars of the numbers of at least 0 within the bounds, without a sign."""
    low = (Decimal(0), False) if low is None or low[0] < 0 else _rounded(low, ROUND_CEILING)
    high = None if high is None else _rounded(min(high, (Decimal(_LARGEST), False)), ROUND_FLOOR)
    if low[0] > _LARGEST:
        return []
    if high is not None and (high[0] < low[0] or (high[0] == low[0] and (low[1] or high[1]))):
        return []
    first, end = math.ceil(low[0]), None if high is None else math.floor(high[0])
    texts = []
    if first > low[0] or low[1]:  # from the bound to the next whole number
        ceiling = high if high is not None and end == math.floor(low[0]) else None
        texts += _fractions(low, ceiling)
        first = math.floor(low[0]) + 1
    middle = _MIDDLE if end is not None and end > _MIDDLE else first  # the more digits before the point, the fewer behind it
    for least, most in ((first, middle), (max(first, middle), end)):
        digits = max(_EXACT - len(str(least if most is None else most)), 0)
        fraction = f' ("." [0-9]{{1,{digits}}})?' if digits else ""
        texts += [f"{text}{fraction}" for text in _whole(least, None if most is None else most - 1)]
    if high is not None and end is not None and end >= first and not (high[1] and high[0] == end):
        texts += [f'"{end}" (".0")?', *(_fractions((Decimal(end), False), high) if high[0] > end else [])]
    return texts


def _rounded(limit: tuple[Decimal, bool], towards: str) -> tuple[Decimal, bool]:
    """Round a bound inwards to 15 digits; one that moved is inclusive."""
    value, is_open = limit
    places = max(_EXACT - len(str(int(value))), 0)
    new = value.quantize(Decimal(1).scaleb(-places), rounding=towards, context=_PRECISE).normalize(_PRECISE)
    return (new, is_open and new == value)


def _fractions(low: tuple[Decimal, bool], high: _Limit) -> list[str]:
    """Return grammars of the numbers from ``low`` on with its whole part and a fraction, up to ``high``."""
    whole = math.floor(low[0])
    longest = _EXACT - len(str(whole))
    n_digits = max(1, *(-int(limit[0].as_tuple().exponent) for limit in (low, high) if limit is not None))
    if n_digits > longest:
        return []
    texts = []
    for n in range(1, n_digits + 1):
        least, most = (low[0] - whole) * 10**n, 10**n - 1 if high is None else (high[0] - whole) * 10**n
        first = math.floor(least) + 1 if low[1] else math.ceil(least)
        last = math.ceil(most) - 1 if high is not None and high[1] else math.floor(most)
        texts += [f'"{whole}." {text}' for text in (_between(*_padded(first, last, n)) if first <= last else [])]
    more = longest - n_digits  # digits after those of the bounds
    first, last = int(least), 10**n_digits - 1 if high is None else int(most) - 1
    if more and low[1] and first <= last:
        texts.append(f'"{whole}." "{str(first).zfill(n_digits)}" [0-9]{{0,{more - 1}}} [1-9]')
        first += 1
    if more and first <= last:
        texts += [f'"{whole}." {text} [0-9]{{1,{more}}}' for text in _between(*_padded(first, last, n_digits))]
    return texts


def _padded(low: int, high: int, n_digits: int) -> tuple[str, str]:
    return str(low).zfill(n_digits), str(high).zfill(n_digits)


def _either(texts: list[str]) -> str | None:
    return f"({' | '.join(texts)})" if texts else None


def _whole(low: int, high: int | None) -> list[str]:
    """Return grammars of the whole numbers ``low … high``, 0 or more, one per number of digits."""
    if high is not None and high < low:
        return []
    n_digits = len(str(low))
    longest = n_digits if high is None else len(str(high))
    texts = []
    for length in range(n_digits, longest + 1):
        least = max(low, 10 ** (length - 1) if length > 1 else 0)
        most = 10**length - 1 if high is None else min(high, 10**length - 1)
        texts += _between(str(least), str(most))
    if high is None and n_digits < DIGITS:
        texts.append(f"[1-9] [0-9]{{{n_digits},{DIGITS - 1}}}")
    return texts


def _between(low: str, high: str) -> list[str]:
    """Return grammars of the digits from ``low`` to ``high``, which have equal length."""
    rest = len(low) - 1
    if low[:1] == high[:1]:
        tails = _between(low[1:], high[1:]) if rest else [""]
        return [f'"{low[0]}" {tail}'.strip() for tail in tails]
    if not rest:
        return [f"[{low}-{high}]"]
    texts, first, last = [], int(low[0]), int(high[0])
    if low[1:] != "0" * rest:
        texts += [f'"{first}" {tail}' for tail in _between(low[1:], "9" * rest)]
        first += 1
    whole_last = high[1:] == "9" * rest
    if first <= last - (not whole_last):
        texts.append(f"[{first}-{last - (not whole_last)}] {_any(rest)}")
    if not whole_last:
        texts += [f'"{last}" {tail}' for tail in _between("0" * rest, high[1:])]
    return texts


def _any(n_digits: int) -> str:
    return "[0-9]" if n_digits == 1 else f"[0-9]{{{n_digits}}}"
