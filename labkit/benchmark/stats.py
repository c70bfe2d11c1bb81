"""A median's confidence interval, and a rank-sum test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from labkit.errors import ArgumentError
from labkit.records import Record


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ConfidenceInterval(Record):
    """A confidence interval of a median.

    Attributes
    ----------
    low, high : float
        Two of the measured values.
    confidence : float
        Probability that such an interval contains the true median. Few repeats cannot reach 0.95: three reach 0.75.
    method : str
    """

    low: float
    high: float
    confidence: float
    method: str = "order statistics"

    def __str__(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g} ({self.confidence:.0%})"


def median_interval(values: Sequence[float], confidence: float = 0.95) -> ConfidenceInterval:
    """Return the confidence interval of a median by order statistics, for any distribution of independent values.

    Each value is below the median with probability ½, so the number of values below it is binomial: the median is between
    the k-th smallest and the k-th largest of n values with probability ``1 - 2 · sum(C(n, i) for i < k) / 2ⁿ``. If there are
    too few values for the requested confidence, the interval spans all of them, and its ``confidence`` is lower.

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
        raise ArgumentError("values is empty: an interval needs at least one")
    ordered = sorted(values)
    n = len(ordered)
    k, covered = 1, 1 - 2 / 2**n
    while k < (n + 1) // 2:
        inner = covered - 2 * math.comb(n, k) / 2**n
        if inner < confidence:
            break
        k, covered = k + 1, inner
    return ConfidenceInterval(float(ordered[k - 1]), float(ordered[n - k]), max(0.0, covered))


def rank_sum_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p-value of the exact two-sided rank-sum test; with three values in each sample it is at least 0.1.

    U counts the pairs in which the first sample's value is larger (a tie counts half). If the distributions are equal, all
    assignments of ranks to the two samples are equally likely; the p-value is the fraction of them with a U at least as far
    from the middle. With ties, the exact distribution differs slightly.

    References
    ----------
    Mann and Whitney, On a test of whether one of two random variables is stochastically larger than the other (1947).

    Examples
    --------
    >>> rank_sum_p_value([1, 2, 3], [4, 5, 6]), rank_sum_p_value([1, 3, 5], [2, 4])
    (0.1, 1.0)
    """
    n, m = len(first), len(second)
    if not n or not m:
        raise ArgumentError("a sample is empty: the test needs at least one value in each")
    u = sum((a > b) + (a == b) / 2 for a in first for b in second)
    distance = abs(u - n * m / 2)
    ways = _ways(n, m)
    as_far = sum(count for value, count in enumerate(ways) if abs(value - n * m / 2) >= distance - 1e-9)
    return as_far / math.comb(n + m, n)


def _ways(n: int, m: int) -> list[int]:
    """Return the number of orders with each U from 0 to n·m: the coefficients of a Gaussian binomial."""
    ways = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for value in range(n * m, m + i - 1, -1):  # times (1 - q^(m+i))
            ways[value] -= ways[value - m - i]
        for value in range(i, n * m + 1):  # over (1 - q^i)
            ways[value] += ways[value - i]
    return ways
