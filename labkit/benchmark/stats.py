"""Percentiles, the interval of a median, and whether two samples differ: plain functions of numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from labkit.errors import ArgumentError
from labkit.records import Record

__all__ = ["ConfidenceInterval", "chance_of_difference", "mean_and_deviation", "median_interval", "percentile"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ConfidenceInterval(Record):
    """Where the true median lies.

    Attributes
    ----------
    low, high : float
        Two of the measured values.
    confidence : float
        How often such an interval holds the true median, 0 to 1. Few repeats cannot give 0.95: three give 0.75.
    method : str
    """

    low: float
    high: float
    confidence: float
    method: str = "order statistics"

    def __str__(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g} ({self.confidence:.0%})"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which ``percent`` of a sample lies.

    Parameters
    ----------
    values : sequence of float
        At least one.
    percent : float
        0 (the smallest) to 100 (the largest).

    Raises
    ------
    ArgumentError
        For an empty sample, or a percentage that is none.

    Notes
    -----
    Linear between neighbours, as NumPy's default: of n sorted values, rank ``percent / 100 · (n - 1)`` counted from 0. The
    95th percentile of fewer than 20 values says little more than the largest of them.

    Examples
    --------
    >>> percentile([3, 1, 2, 4], 50), percentile([1.0], 95), percentile(range(101), 95)
    (2.5, 1.0, 95.0)
    """
    if not values:
        raise ArgumentError("a percentile of no values: give at least one")
    if not 0 <= percent <= 100:
        raise ArgumentError(f"percent={percent:g} is out of range: it must be 0 to 100")
    ordered = sorted(values)
    rank = percent / 100 * (len(ordered) - 1)
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (rank - below))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample deviation, as llama-bench prints them; the deviation of one value is 0.

    Examples
    --------
    >>> mean_and_deviation([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    if not values:
        raise ArgumentError("a mean of no values: give at least one")
    mean = math.fsum(values) / len(values)
    spread = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(spread / (len(values) - 1)) if len(values) > 1 else 0.0


def median_interval(values: Sequence[float], confidence: float = 0.95) -> ConfidenceInterval:
    """Return the confidence interval of a median from the sample's own order, whatever the distribution.

    Parameters
    ----------
    values : sequence of float
        Independent measurements.
    confidence : float
        What is asked for; where so few values cannot give it, the interval is all of them and says what it does give.

    Returns
    -------
    ConfidenceInterval

    Raises
    ------
    ArgumentError
        For an empty sample.

    Notes
    -----
    Each value lies below the median with probability ½, so how many do is binomial: between the k-th smallest and the k-th
    largest of n values the median lies with probability ``1 - 2 · sum(C(n, i) for i < k) / 2ⁿ``.

    References
    ----------
    Conover, Practical Nonparametric Statistics, 3.2 (confidence interval for a quantile).

    Examples
    --------
    >>> print(median_interval([5.0, 1.0, 3.0]))
    1 to 5 (75%)
    >>> print(median_interval(range(1, 21)))
    6 to 15 (96%)
    """
    if not values:
        raise ArgumentError("an interval of no values: give at least one")
    ordered = sorted(values)
    n = len(ordered)
    k, covered = 1, 1 - 2 / 2**n
    while k < (n + 1) // 2:
        inner = covered - 2 * math.comb(n, k) / 2**n
        if inner < confidence:
            break
        k, covered = k + 1, inner
    return ConfidenceInterval(float(ordered[k - 1]), float(ordered[n - k]), max(0.0, covered))


def chance_of_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how likely two samples of the same thing differ by as much as these: the exact two-sided rank-sum test.

    Parameters
    ----------
    first, second : sequence of float
        Independent measurements, at least one each.

    Returns
    -------
    float
        0 to 1. Three values against three others never give less than 0.1.

    Notes
    -----
    U counts the pairs in which the first sample's value is the larger (a tie counts half). Of all ways to deal the ranks to
    the two samples, all equally likely when both are the same, the share with a U at least as far from the middle is
    returned. With ties the ranks' exact distribution differs a little.

    References
    ----------
    Mann and Whitney, On a test of whether one of two random variables is stochastically larger than the other (1947).

    Examples
    --------
    >>> chance_of_difference([1, 2, 3], [4, 5, 6]), chance_of_difference([1, 3, 5], [2, 4])
    (0.1, 1.0)
    """
    n, m = len(first), len(second)
    if not n or not m:
        raise ArgumentError("two samples are compared: give at least one value each")
    u = sum((a > b) + (a == b) / 2 for a in first for b in second)
    distance = abs(u - n * m / 2)
    ways = _ways(n, m)
    as_far = sum(count for value, count in enumerate(ways) if abs(value - n * m / 2) >= distance - 1e-9)
    return as_far / math.comb(n + m, n)


def _ways(n: int, m: int) -> list[int]:
    """Return for each U of 0 to n·m in how many orders it comes about: the coefficients of a Gaussian binomial."""
    ways = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for value in range(n * m, m + i - 1, -1):  # times (1 - q^(m+i))
            ways[value] -= ways[value - m - i]
        for value in range(i, n * m + 1):  # over (1 - q^i)
            ways[value] += ways[value - i]
    return ways
