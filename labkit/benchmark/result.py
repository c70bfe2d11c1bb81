"""BenchmarkResult, with a table like llama-bench's as text, HTML, Markdown and CSV, and JSON."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.benchmark.compare import BenchmarkComparison, compare_benchmarks
from labkit.benchmark.records import BenchmarkRun, BenchmarkSettings, SpeedGap
from labkit.benchmark.stats import ConfidenceInterval
from labkit.output_files import written
from labkit.records import Record
from labkit.system import SystemProfile
from labkit.tables import Table, notes_html, to_csv
from labkit.units import format_bytes, format_duration, format_rate

HEADINGS = ("model", "size", "params", "backend", "threads", "test", "t/s")
USER = ", user"  # suffix of a test's name that includes labkit, not only llama.cpp


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BenchmarkResult(Record):
    """The result of `benchmark_inference`.

    Attributes
    ----------
    tokens_per_second : float
        Generated tokens of all prompts over the wall time of a repeat, prompt processing included; median of the repeats.
    confidence_interval : ConfidenceInterval
        Of that median, from order statistics of the repeats.
    decode_tokens_per_second : float or None
        Generation alone, as the user sees it: tokens after the first over their time; median of the repeats. None if
        ``max_tokens`` is 1.
    prompt_tokens_per_second : float
        Prompt tokens over the time until their logits are available; median of the repeats.
    time_to_first_token_s, time_to_first_token_p95_s : float
        Median and 95th percentile of all runs.
    inter_token_latency_s, inter_token_latency_p95_s : float or None
        Median and 95th percentile of the times between two tokens.
    total_tokens : int
        Tokens generated in all repeats.
    elapsed_s : float
        Wall time of all repeats, without warm-up and engine tests.
    memory_bytes, memory_delta_bytes : int
        Peak RSS during the repeats, and its increase over the RSS before them.
    engine_test : tuple of str
        llama-bench's names of the two engine tests, such as ``("pp512", "tg128")``; empty without them.
    engine_prompt_tokens_per_second, engine_decode_tokens_per_second : float or None
        llama.cpp only, by llama-bench's protocol (random tokens, empty cache, no sampling); median of the repeats.
    engine_prompt_samples, engine_decode_samples : tuple of float
        Tokens per second of each repeat.
    gap : SpeedGap or None
        The parts of the user's time per token, in seconds; None if several prompts ran together or ``max_tokens`` is 1.
    noise : float
        Spread of the repeats: the highest ``tokens_per_second`` minus the lowest, over the median.
    samples : tuple of float
        Tokens per second of each repeat; ``tokens_per_second`` is their median.
    decode_samples, prompt_samples : tuple of float
        The same for generation alone and for prompt processing.
    runs : tuple of BenchmarkRun
        One per prompt and repeat.
    settings : BenchmarkSettings
    system : SystemProfile
    notes : tuple of str
        Caveats about the figures.
    """

    tokens_per_second: float
    confidence_interval: ConfidenceInterval
    decode_tokens_per_second: float | None
    prompt_tokens_per_second: float
    time_to_first_token_s: float
    time_to_first_token_p95_s: float
    inter_token_latency_s: float | None
    inter_token_latency_p95_s: float | None
    total_tokens: int
    elapsed_s: float
    memory_bytes: int
    memory_delta_bytes: int
    engine_test: tuple[str, ...]
    engine_prompt_tokens_per_second: float | None
    engine_decode_tokens_per_second: float | None
    engine_prompt_samples: tuple[float, ...]
    engine_decode_samples: tuple[float, ...]
    gap: SpeedGap | None
    noise: float
    samples: tuple[float, ...]
    decode_samples: tuple[float, ...]
    prompt_samples: tuple[float, ...]
    runs: tuple[BenchmarkRun, ...]
    settings: BenchmarkSettings
    system: SystemProfile
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "\n\n".join([*(table.to_text() for table in _tables(self)), *self.notes])

    def _repr_html_(self) -> str:
        return "".join(table.to_html() for table in _tables(self)) + notes_html(self.notes)

    def compare(self, other: Mapping[str, Any]) -> BenchmarkComparison:
        """Compare this result with another: `compare_benchmarks`."""
        return compare_benchmarks(self, other)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything as JSON; with a path, also write it there. `compare` accepts the result of ``json.loads``."""
        return written(json.dumps(self.to_dict(), indent=2, ensure_ascii=False), path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return one unrounded row per run as CSV, without the times of its tokens; with a path, also write it there."""
        return written(to_csv(self.runs, without=("token_times_s",)), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Return llama-bench's table and the user's figures as Markdown; with a path, also write it there."""
        tests, summary = _tables(self)
        parts = [tests.to_markdown(right=(1, 2, 4, 5, 6)), summary.to_markdown(), *self.notes]
        return written("\n\n".join(parts) + "\n", path)

    def plot(self, *, axes: Any = None) -> Any:
        """Draw the inter-token latencies with `labkit.plots.plot_benchmark` and return the matplotlib Axes."""
        from labkit.plots import plot_benchmark

        return plot_benchmark(self, axes=axes)


def bench_records(result: BenchmarkResult) -> list[dict[str, Any]]:
    """Return one row per test: llama-bench's fields where the meaning is the same, and ``figure`` ("engine" or "user")."""
    settings = result.settings
    n_prompt = round(sum(settings.n_prompt) / len(settings.n_prompt))
    common = {
        "model_filename": settings.model,
        "model_type": settings.model_type,
        "model_size": settings.model_size_bytes,
        "model_n_params": settings.model_n_params,
        "cpu_info": result.system.cpu,
        "backends": settings.backends,
        "n_batch": settings.n_batch,
        "n_ubatch": settings.n_ubatch,
        "n_threads": settings.n_threads,
        "type_k": settings.type_k,
        "type_v": settings.type_v,
        "n_gpu_layers": settings.n_gpu_layers,
        "flash_attn": int(settings.flash_attn),
        "use_mmap": int(settings.use_mmap),
    }
    tests: list[tuple[str, str, int, int, Sequence[float]]] = []
    if result.engine_test:
        engine_prompt, engine_gen = (int(name[2:]) for name in result.engine_test)
        tests.append(("engine", result.engine_test[0], engine_prompt, 0, result.engine_prompt_samples))
        tests.append(("engine", result.engine_test[1], 0, engine_gen, result.engine_decode_samples))
    tests.append(("user", f"pp{n_prompt}", n_prompt, 0, result.prompt_samples))
    if result.decode_samples:
        tests.append(("user", f"tg{settings.max_tokens}", 0, settings.max_tokens, result.decode_samples))
    records = []
    for figure, test, prompt, gen, samples in tests:
        mean, deviation = statistics.fmean(samples), statistics.stdev(samples) if len(samples) > 1 else 0.0
        own = {"figure": figure, "test": test, "n_prompt": prompt, "n_gen": gen, "avg_ts": mean, "stddev_ts": deviation}
        records.append({**common, **own})
    return records


def bench_rows(result: BenchmarkResult) -> list[list[str]]:
    """Return the rows under ``HEADINGS`` as llama-bench prints them; ``USER`` marks the user's tests."""
    return [
        [
            record["model_type"],
            format_bytes(record["model_size"]),
            _params(record["model_n_params"]),
            record["backends"],
            str(record["n_threads"]),
            record["test"] if record["figure"] == "engine" else record["test"] + USER,
            f"{record['avg_ts']:.2f} ± {record['stddev_ts']:.2f}",
        ]
        for record in bench_records(result)
    ]


def _params(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"


def summary_rows(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Return the speed as a user sees it, as pairs of name and value."""
    interval = result.confidence_interval
    rows = [
        ("throughput", f"{format_rate(result.tokens_per_second)}, prompts included; confidence interval {interval}"),
        ("time to first token", _pair(result.time_to_first_token_s, result.time_to_first_token_p95_s)),
    ]
    if result.inter_token_latency_s is not None and result.inter_token_latency_p95_s is not None:
        rows.append(("inter-token latency", _pair(result.inter_token_latency_s, result.inter_token_latency_p95_s)))
    more = f"{format_bytes(result.memory_delta_bytes)} more than before"
    rows.append(("peak RSS", f"{format_bytes(result.memory_bytes)}, {more}"))
    if result.gap is not None:
        parts = {name: result.gap[f"{name}_s_per_token"] for name in ("engine", "depth", "sampler", "text", "python")}
        terms = ", ".join(f"{name} {seconds * 1e3:.3f}" for name, seconds in parts.items())
        rows.append(("ms per token", f"{result.gap.user_s_per_token * 1e3:.3f} = {terms}"))
    return rows


def _pair(median: float, p95: float) -> str:
    return f"median {format_duration(median)}, 95th percentile {format_duration(p95)}"


def _tables(result: BenchmarkResult) -> tuple[Table, Table]:
    title = f"{result.settings.model}: llama.cpp only, and what a user sees"
    return Table(title, HEADINGS, bench_rows(result)), Table("", (), summary_rows(result))


def bench_csv(result: BenchmarkResult) -> str:
    """Return one row per test as CSV, like ``llama-bench -o csv``."""
    return to_csv(bench_records(result))
