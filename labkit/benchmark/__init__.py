"""How fast a model answers: what its user sees beside what the engine alone could do, and where the difference goes.

::

    run      benchmark_inference: warm-up and repeats
    figures  times of runs -> the figures of a result
    parallel several prompts together
    memory   the most RAM held meanwhile
    stats    percentiles, intervals, whether two samples differ
    records  BenchmarkResult and its parts
    compare  faster, slower or within noise
    export   llama-bench's table, CSV, Markdown
"""

from __future__ import annotations

from labkit.benchmark.compare import BenchmarkComparison, compare_benchmarks
from labkit.benchmark.records import BenchmarkRun, BenchmarkSettings, SpeedGap
from labkit.benchmark.result import BenchmarkResult
from labkit.benchmark.run import benchmark_inference
from labkit.benchmark.stats import ConfidenceInterval

__all__ = [
    "BenchmarkComparison",
    "BenchmarkResult",
    "BenchmarkRun",
    "BenchmarkSettings",
    "ConfidenceInterval",
    "SpeedGap",
    "benchmark_inference",
    "compare_benchmarks",
]
