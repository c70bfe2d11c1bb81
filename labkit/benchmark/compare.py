"""Compare two results: faster, slower or within noise."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from labkit.benchmark.stats import median_interval
from labkit.checks import visible
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.records import Record, to_plain

NOISE = 0.02  # possible difference between two runs with consistent repeats: clocks, heat, other programs

_FIGURES = {
    "tokens_per_second": "samples",
    "decode_tokens_per_second": "decode_samples",
    "prompt_tokens_per_second": "prompt_samples",
}
_IGNORED = {"settings": {"warmup", "repeats"}, "system": {"ram_available_bytes", "devices", "read_bytes_per_second"}}


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SpeedDifference(Record):
    """One figure of two results."""

    figure: str  # the result's key
    ratio: float  # the first result's median over the second's
    verdict: str  # "faster", "slower" or "within noise"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BenchmarkComparison(Record):
    """The comparison of two results.

    Attributes
    ----------
    verdict : str
        ``"faster"``, ``"slower"`` or ``"within noise"``: the first result's throughput compared with the second's.
    ratio : float
        The first result's median throughput over the second's.
    sentence : str
        The same as a sentence.
    figures : tuple of SpeedDifference
        Throughput, generation, prompt.
    differing : tuple of str
        Settings and system properties that differ, with both values.
    warnings : tuple of str
        Reasons why the verdict may be misleading.
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
    """Return whether one result is faster or slower than another, or the same within noise.

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
        If one of them is not such a result.

    Notes
    -----
    Faster means: the confidence intervals of the two medians (`median_interval` of the repeats) do not overlap, and the
    medians differ by more than 2 %. The repeats of one run do not show what changes from run to run; for an important
    decision, run each benchmark several times. With three repeats each, equal speeds have such intervals in one case of ten;
    with five, in one of 126.
    """
    for result in (first, second):
        if not isinstance(result, Mapping):
            raise ArgumentTypeError(f"{type(result).__name__} is not a benchmark result: give one of benchmark_inference")
        missing = [key for key in (*_FIGURES, "samples", "settings", "system") if key not in result]
        if missing:
            raise ArgumentError(f"this mapping has no {missing[0]!r}: give a result of benchmark_inference")
    figures = tuple(
        _difference(key, first[samples], second[samples])
        for key, samples in _FIGURES.items()
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
            f"The {part} of the two results differ ({'; '.join(found[:3])}{'; …' if len(found) > 3 else ''})."
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
    return SpeedDifference(key, ratio, verdict)


def _sentence(found: SpeedDifference, first: Sequence[float], second: Sequence[float]) -> str:
    speeds = f"{statistics.median(first):.4g} vs. {statistics.median(second):.4g} tokens/s"
    if len(first) < 2 or len(second) < 2:
        return f"Within noise, since one repeat shows no noise: {speeds}; use repeats=3 or more."
    if found.verdict == "within noise":
        return f"Within noise: {speeds}, a factor of {found.ratio:.3f}."
    return f"{found.verdict.capitalize()}, by a factor of {found.ratio:.3f}: {speeds}."


def _differing(first: Mapping[str, Any], second: Mapping[str, Any], ignored: set[str]) -> list[str]:
    """Return the differing keys with both values; a key that only one of them has also differs."""
    one, other = to_plain(first), to_plain(second)
    found = []
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if key in ignored or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{key}.{text}" for text in _differing(a, b, ignored)]
        else:
            found.append(f"{key}: {visible(a, 40)} vs. {visible(b, 40)}")
    return found
