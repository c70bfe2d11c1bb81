"""Seconds of settings, measured while other programs may disturb: the least counts, and what contradicts is found."""

from __future__ import annotations

import math
from collections.abc import Hashable

_ODD = 1.5  # times as long as the number of threads explains


class Times:
    """The least seconds of each setting and number of threads.

    Examples
    --------
    >>> times = Times()
    >>> times.add("prompt", 1, 0.001)
    >>> times.add("prompt", 2, 0.06)
    >>> times.is_odd("prompt", 2), times.is_odd("prompt", 1)
    (True, False)
    >>> times.add("prompt", 2, 0.0006)
    >>> times["prompt", 2], times.is_odd("prompt", 2)
    (0.0006, False)
    """

    def __init__(self) -> None:
        self._least: dict[Hashable, dict[int, float]] = {}

    def add(self, setting: Hashable, n_threads: int, seconds: float) -> None:
        """Note a measurement: another program can only add to the time, so the least is nearest to the truth."""
        known = self._least.setdefault(setting, {})
        known[n_threads] = min(seconds, known.get(n_threads, math.inf))

    def known(self, setting: Hashable, n_threads: int) -> float | None:
        """Return the least seconds measured; None if there are none."""
        return self._least.get(setting, {}).get(n_threads)

    def __getitem__(self, key: tuple[Hashable, int]) -> float:
        return self._least[key[0]][key[1]]

    def is_odd(self, setting: Hashable, n_threads: int) -> bool:
        """Return whether a time contradicts another: n threads need at most m / n times as long as m, and as fewer."""
        known = self._least.get(setting, {})
        mine = known.get(n_threads, 0.0)
        return math.isfinite(mine) and any(
            mine > _ODD * seconds * max(1.0, other / n_threads) for other, seconds in known.items() if other != n_threads
        )
