"""Two results -> faster, slower or within noise."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from labkit.benchmark.stats import chance_of_difference, median_interval
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.records import Record, to_plain

__all__ = ["BenchmarkComparison", "SpeedDifference", "compare_benchmarks"]

NOISE = 0.02  # what two runs of the same thing may differ by though each agrees with itself: clocks, heat, other programs

_FIGURES = {
    "tokens_per_second": ("samples", "throughput"),
    "decode_tokens_per_second": ("decode_samples", "generating"),
    "prompt_tokens_per_second": ("prompt_samples", "the prompt"),
}
_IGNORED = {"settings": {"warmup", "repeats"}, "system": {"ram_available_bytes", "devices", "read_bytes_per_second"}}


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SpeedDifference(Record):
    """One figure of two results.

    Attributes
    ----------
    figure : str
        The result's key.
    ratio : float
        Of the medians: the first result's over the second's.
    verdict : str
        ``"faster"``, ``"slower"`` or ``"within noise"``.
    chance : float
        How likely two samples of the same thing lie this far apart (exact rank-sum test).
    """

    figure: str
    ratio: float
    verdict: str
    chance: float


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BenchmarkComparison(Record):
    """Two results, compared.

    Attributes
    ----------
    verdict : str
        ``"faster"``, ``"slower"`` or ``"within noise"``: the first result's throughput.
    ratio : float
        Its median over the second's.
    sentence : str
        The same in words.
    figures : tuple of SpeedDifference
        Throughput, generating, prompt.
    differing : tuple of str
        Settings and facts of the system that are not the same in both, with their values.
    warnings : tuple of str
        Why the verdict may not mean what it seems to.
    """

    verdict: str
    ratio: float
    sentence: str
    figures: tuple[SpeedDifference, ...]
    differing: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([self.sentence, *self.warnings])


def compare_benchmarks(first: Mapping[str, Any], second: Mapping[str, Any]) -> BenchmarkComparison:
    """Say whether one result is faster than another, slower, or not to be told apart from it.

    Parameters
    ----------
    first, second : BenchmarkResult or mapping
        As `benchmark_inference` returns them, or read from their ``to_json()``.

    Returns
    -------
    BenchmarkComparison

    Raises
    ------
    ArgumentError, ArgumentTypeError
        When one of them is no such result.

    Notes
    -----
    Faster means: the intervals of the two medians (`median_interval`, of the repeats) do not overlap, and the medians differ
    by more than 2 %. Repeats of one run know nothing of what changes from run to run; run each more than once where much
    hangs on it. With three repeats a side, equal speeds lie this way apart in one case of ten; with five, in one of 126.
    """
    for result in (first, second):
        if not isinstance(result, Mapping):
            raise ArgumentTypeError(f"a benchmark's result is compared with another, not with {type(result).__name__}")
        missing = [key for key in (*_FIGURES, "samples", "settings", "system") if key not in result]
        if missing:
            raise ArgumentError(f"this is no result of benchmark_inference: it has no {missing[0]!r}")
    figures = tuple(
        _difference(key, first[samples], second[samples])
        for key, (samples, _) in _FIGURES.items()
        if first[key] is not None and second[key] is not None
    )
    differing = {part: _differing(first[part], second[part], _IGNORED[part]) for part in ("settings", "system")}
    return BenchmarkComparison(
        verdict=figures[0].verdict,
        ratio=figures[0].ratio,
        sentence=_sentence(figures[0], first["samples"], second["samples"]),
        figures=figures,
        differing=tuple(difference for found in differing.values() for difference in found),
        warnings=tuple(
            f"Their {part} differ ({'; '.join(found[:3])}{'; …' if len(found) > 3 else ''})."
            for part, found in differing.items()
            if found
        ),
    )


def _difference(key: str, first: Sequence[float], second: Sequence[float]) -> SpeedDifference:
    ratio = statistics.median(first) / statistics.median(second)
    one, other = median_interval(first), median_interval(second)
    apart = one.low > other.high or other.low > one.high
    small = abs(ratio - 1) <= NOISE or len(first) < 2 or len(second) < 2
    verdict = "within noise" if small or not apart else "faster" if ratio > 1 else "slower"
    return SpeedDifference(key, ratio, verdict, chance_of_difference(first, second))


def _sentence(found: SpeedDifference, first: Sequence[float], second: Sequence[float]) -> str:
    speeds = f"{statistics.median(first):.4g} against {statistics.median(second):.4g} tokens/s"
    if len(first) < 2 or len(second) < 2:
        return f"Within noise, as one repeat tells nothing of it: {speeds}; ask for repeats=3 or more."
    if found.verdict == "within noise":
        return f"Within noise: {speeds}, a factor of {found.ratio:.3f}."
    return f"{found.verdict.capitalize()}, by a factor of {found.ratio:.3f}: {speeds}."


def _differing(first: Mapping[str, Any], second: Mapping[str, Any], ignored: set[str]) -> list[str]:
    """Return what differs, with values; what only one of them has differs too."""
    one, other = to_plain(first), to_plain(second)
    found = []
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if key in ignored or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{key}.{text}" for text in _differing(a, b, ignored)]
        else:
            found.append(f"{key}: {_short(a)} against {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
