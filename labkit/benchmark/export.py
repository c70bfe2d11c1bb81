"""A result -> rows of llama-bench's table, as text, HTML, CSV, Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from labkit.benchmark.stats import mean_and_deviation
from labkit.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from labkit.benchmark.records import BenchmarkResult

__all__ = [
    "HEADINGS",
    "USER",
    "bench_csv",
    "bench_records",
    "bench_rows",
    "html",
    "markdown",
    "runs_csv",
    "summary_rows",
    "text",
]

HEADINGS = ("model", "size", "params", "backend", "threads", "test", "t/s")
USER = ", user"  # what the name of a test ends with that was not llama.cpp alone


def bench_records(result: BenchmarkResult) -> list[dict[str, Any]]:
    """Return a row a test: llama-bench's fields where they mean the same, and ``figure``, which is engine or user."""
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
        mean, deviation = mean_and_deviation(samples)
        own = {"figure": figure, "test": test, "n_prompt": prompt, "n_gen": gen, "avg_ts": mean, "stddev_ts": deviation}
        records.append({**common, **own})
    return records


def bench_rows(result: BenchmarkResult) -> list[list[str]]:
    """Return the rows under ``HEADINGS`` as llama-bench prints them; the user's tests say so."""
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
    """Return what the user sees of the speed, a name and a value each."""
    interval = result.confidence_interval
    rows = [
        ("throughput", f"{format_rate(result.tokens_per_second)}, prompts included; median's interval {interval}"),
        ("time to first token", _pair(result.time_to_first_token_s, result.time_to_first_token_p95_s)),
    ]
    if result.inter_token_latency_s is not None and result.inter_token_latency_p95_s is not None:
        rows.append(("between two tokens", _pair(result.inter_token_latency_s, result.inter_token_latency_p95_s)))
    more = f"{format_bytes(result.memory_delta_bytes)} more than before"
    rows.append(("memory at its peak", f"{format_bytes(result.memory_bytes)}, {more}"))
    if result.gap is not None:
        parts = {name: result.gap[f"{name}_s_per_token"] for name in ("engine", "depth", "sampler", "text", "python")}
        shown = ", ".join(f"{name} {seconds * 1e3:.3f}" for name, seconds in parts.items())
        rows.append(("a token, ms", f"{result.gap.user_s_per_token * 1e3:.3f} = {shown}"))
    return rows


def _pair(median: float, p95: float) -> str:
    return f"{format_duration(median)} in the median, 95 % below {format_duration(p95)}"


def markdown(result: BenchmarkResult) -> str:
    """Return llama-bench's table, the user's figures and the notes as Markdown."""
    table = _markdown_table(HEADINGS, bench_rows(result), right=(1, 2, 4, 5, 6))
    summary = _markdown_table(("", ""), summary_rows(result), right=())
    return "\n\n".join([table, summary, *result.notes]) + "\n"


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    rule = ["---:" if index in right else "---" for index in range(len(headings))]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (headings, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(result: BenchmarkResult) -> str:
    """Return the same as plain text."""
    parts = []
    for table in ([list(HEADINGS), *bench_rows(result)], [[name, value] for name, value in summary_rows(result)]):
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *result.notes])


def html(result: BenchmarkResult) -> str:
    """Return the same as HTML."""

    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f'<{tag} style="text-align:left">{escape(cell)}</{tag}>' for cell in cells) + "</tr>"

    tests = "".join(row("td", cells) for cells in bench_rows(result))
    summary = "".join(row("td", cells) for cells in summary_rows(result))
    caption = f"<caption>{escape(result.settings.model)}: llama.cpp alone, and what a user of it sees</caption>"
    notes = "".join(f"<p>{escape(note)}</p>" for note in result.notes)
    first = f"<table>{caption}<thead>{row('th', HEADINGS)}</thead><tbody>{tests}</tbody></table>"
    return f"{first}<table><tbody>{summary}</tbody></table>{notes}"


def bench_csv(result: BenchmarkResult) -> str:
    """Return a row a test as CSV, as ``llama-bench -o csv`` does."""
    return _csv(bench_records(result))


def runs_csv(result: BenchmarkResult) -> str:
    """Return a row a run as CSV, without the times of single tokens."""
    return _csv([{key: value for key, value in run.items() if key != "token_times_s"} for run in result.runs])


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()
