"""Coordinate search over settings: threads, attention with its cache type, and batch size, one after another.

The times of a prompt and of a token mostly depend on different settings, and these hardly interact. So each setting is
varied alone, starting with `load_model`'s defaults. A full grid would try every combination.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

CLEARLY = 0.98  # a better setting must need at most this fraction of the time: noise is about 2 %


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    """Settings: threads for tokens and for prompts, micro-batch size, flash attention with the cache's types."""

    n_threads: int
    n_threads_batch: int
    n_ubatch: int
    attention: tuple[bool, str, str]
    n_parallel: int

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, by the names that `Tried` and `TunedSettings` have for them."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if name != "attention"}
        return {**plain, **dict(zip(("flash_attn", "type_k", "type_v"), self.attention, strict=True))}


@dataclasses.dataclass(frozen=True)
class Grid:
    """The possible values of each setting, in ascending order if it has one."""

    n_threads: tuple[int, ...]
    n_ubatch: tuple[int, ...]
    attention: tuple[tuple[bool, str, str], ...]
    n_parallel: tuple[int, ...]

    @property
    def n_points(self) -> int:
        """Number of combinations."""
        return len(self.n_threads) ** 2 * len(self.n_ubatch) * len(self.attention) * len(self.n_parallel)


class Search:
    """A search for the least cost, from a starting point on the grid.

    ``prompt_s`` and ``step_s`` give the seconds of a point's prompt, and of one token of each sequence.
    """

    def __init__(
        self,
        grid: Grid,
        start: Point,
        prompt_s: Callable[[Point], float],
        step_s: Callable[[Point], float],
        cost: Callable[[float, float, int], float],
    ) -> None:
        self.grid, self.best = grid, start
        self._prompt_s, self._step_s, self._cost = prompt_s, step_s, cost

    def run(self) -> Point:
        """Search, and return the best point."""
        self._along("n_parallel", self.grid.n_parallel, self._whole)
        self._along("n_threads", self.grid.n_threads, self._step_s)
        self.best = dataclasses.replace(self.best, n_threads_batch=self._threads_for_prompts())
        self._every("attention", self.grid.attention, self._whole)
        self._along("n_ubatch", self.grid.n_ubatch, self._prompt_s)
        return self.best

    def _threads_for_prompts(self) -> int:
        """Return the best number of threads for prompts: they are limited by computing, so every core can help."""
        points = {n: dataclasses.replace(self.best, n_threads_batch=n) for n in self.grid.n_threads}
        return climb(self.grid.n_threads, self.best.n_threads_batch, lambda n: self._prompt_s(points[n]))

    def _whole(self, point: Point) -> float:
        step_s = self._step_s(point)  # first, since it also computes the prompt
        return self._cost(self._prompt_s(point), step_s, point.n_parallel)

    def _along(self, name: str, values: Sequence[int], measure: Callable[[Point], float]) -> None:
        points = {value: dataclasses.replace(self.best, **{name: value}) for value in values}  # type: ignore[arg-type]
        self.best = points[climb(values, getattr(self.best, name), lambda value: measure(points[value]))]

    def _every(self, name: str, values: Sequence[object], measure: Callable[[Point], float]) -> None:
        now = measure(self.best)
        for value in values:
            point = dataclasses.replace(self.best, **{name: value})  # type: ignore[arg-type]
            if point != self.best and (other := measure(point)) < CLEARLY * now:
                self.best, now = point, other


def climb(values: Sequence[int], start: int, cost: Callable[[int], float]) -> int:
    """Return the value with the least cost, going from a start to either side while it gets clearly better.

    Examples
    --------
    >>> climb((1, 2, 4, 8, 16), 4, lambda n: abs(n - 8))
    8
    >>> climb((1, 2, 4), 4, lambda n: 1.0)
    4
    """
    best = position = values.index(start)
    least = cost(start)
    for direction in (-1, 1):
        position = best
        while 0 <= position + direction < len(values):
            position += direction
            found = cost(values[position])
            if found >= CLEARLY * least:
                break
            best, least = position, found
        if best != values.index(start):
            break
    return values[best]
