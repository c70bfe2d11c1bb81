"""A median's confidence interval."""

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
        Probability that such an interval contains the true median; three repeats reach only 0.75.
    method : str
        How it was computed.
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
