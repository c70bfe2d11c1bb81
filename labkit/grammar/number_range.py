"""Numbers between two bounds, as GBNF over their digits."""

from __future__ import annotations

import math

DIGITS = 16
_FRACTION = '("." [0-9]{1,15})?'
_Bound = float | None


def integer_range(minimum: _Bound = None, maximum: _Bound = None, above: _Bound = None, below: _Bound = None) -> str | None:
    """Return a grammar of the integers within the bounds (``above`` and ``below`` are exclusive), or None for no integer."""
    lows = [*([math.ceil(minimum)] if minimum is not None else []), *([math.floor(above) + 1] if above is not None else [])]
    highs = [*([math.floor(maximum)] if maximum is not None else []), *([math.ceil(below) - 1] if below is not None else [])]
    low, high = max(lows, default=None), min(highs, default=None)
    texts = []
    if low is None or low < 0:
        negative = _whole(max(1, -high) if high is not None else 1, None if low is None else -low)
        texts += [f'"-" {text}' for text in negative]
    if high is None or high >= 0:
        texts += _whole(max(low or 0, 0), high)
    return _either(texts)


def number_range(minimum: _Bound = None, maximum: _Bound = None, above: _Bound = None, below: _Bound = None) -> str | None:
    """Return a grammar of decimal numbers within the bounds, or None when it finds none.

    Notes
    -----
    It does not cover all of them: next to a bound that is not a whole number, it has only the whole numbers inside.
    """
    low = max((n for n in (minimum, above) if n is not None), default=None)
    high = min((n for n in (maximum, below) if n is not None), default=None)
    low_open, high_open = low is not None and low == above, high is not None and high == below
    texts = _at_least_zero(low, low_open, high, high_open)
    negative = _at_least_zero(None if high is None else -high, high_open, None if low is None else -low, low_open)
    return _either([*texts, *(f'"-" {text}' for text in negative)])


def _at_least_zero(low: _Bound, low_open: bool, high: _Bound, high_open: bool) -> list[str]:
    """Return grammars of the numbers of at least 0 within the bounds, without a sign."""
    if high is not None and (high < 0 or (high == 0 and high_open)):
        return []
    if low is None or low < 0:
        low, low_open = 0, False
    first = math.floor(low) + 1 if low_open else math.ceil(low)
    end = None if high is None else math.floor(high)  # below this whole number any fraction is allowed
    texts = [f"{text} {_FRACTION}" for text in _whole(first, None if end is None else end - 1)]
    if end is not None and end >= first and not (high_open and end == high):
        texts.append(f'"{end}"')
    if low_open and low == math.floor(low) and (end is None or end > low):
        texts.append(f'"{int(low)}." [0-9]{{0,14}} [1-9]')
    return texts


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
