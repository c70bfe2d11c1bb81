"""Speed: inter-token latencies, and the milestone's card."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from labkit.errors import ArgumentError
from labkit.plots.picture import MAIN, OTHER, new_axes
from labkit.units import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_benchmark(result: Any, *, axes: Axes | None = None) -> Axes:
    """Draw the latency of each token: the median and range of all runs, and llama.cpp only.

    The axes are milliseconds and the token's position; the time to first token is in the title.

    Parameters
    ----------
    result : BenchmarkResult
        As `benchmark_inference` returns it, with ``max_tokens`` of at least 2.

    Raises
    ------
    ArgumentError
        If the result has no latency between two tokens.
    """
    places = [sorted(1e3 * latency for latency in place) for place in _latencies(result)]
    axes = new_axes(4) if axes is None else axes
    x = range(2, len(places) + 2)
    axes.fill_between(x, [p[0] for p in places], [p[-1] for p in places], color=MAIN, alpha=0.2, label="all runs")
    axes.plot(x, [statistics.median(p) for p in places], "o-", color=MAIN, markersize=3, linewidth=1, label="median")
    lines = {"95th percentile": (result.inter_token_latency_p95_s, "--", "0.3")}
    if result.engine_decode_tokens_per_second is not None:
        lines[f"llama.cpp only ({result.engine_test[1]})"] = (1 / result.engine_decode_tokens_per_second, ":", OTHER)
    for name, (seconds, style, colour) in lines.items():
        axes.axhline(1e3 * (seconds or 0), linestyle=style, color=colour, linewidth=2, label=name)
    speed = result.decode_tokens_per_second or 0.0
    title = f"first token after {1e3 * result.time_to_first_token_s:.0f} ms, then {speed:.1f} tokens/s"
    axes.set_title(title)
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the legend
    axes.set_xlabel("position in the text (tokens)")
    axes.set_ylabel("time since the previous token (ms)")
    axes.legend(frameon=False, ncols=2, loc="upper left", fontsize=9)
    texts = "; ".join(f"{name}: {1e3 * (seconds or 0):.2f} ms" for name, (seconds, _, _) in lines.items())
    median = 1e3 * (result.inter_token_latency_s or 0)
    axes.set_label(
        f"Line chart of the latencies between {result.settings.max_tokens:,} tokens of {result.settings.model}, the median "
        f"and range of {counted(len(result.runs), 'run')}: {title}. Median latency: {median:.2f} ms; {texts}."
    )
    return axes


def _latencies(result: Any) -> list[tuple[float, ...]]:
    """Return the latencies of all runs for the second token, the third, and so on."""
    places = list(zip(*(run.inter_token_latencies_s for run in result.runs), strict=False))
    if not places:
        raise ArgumentError("max_tokens=1 gives no latency between two tokens to draw: run the benchmark with more")
    return places


def plot_milestone(result: Any, *, axes: Axes | None = None) -> Axes:
    """Draw the milestone's card: measured and predicted speeds, the bandwidth's limit, and the target.

    One row is a single stream, one several prompts together, in tokens per second.

    Parameters
    ----------
    result : MilestoneResult
        As `run_milestone` returns it.
    """
    import textwrap

    axes = new_axes(4) if axes is None else axes
    rows = result.figures()
    for place, (_, figure) in enumerate(rows):
        axes.barh(
            place, figure.tokens_per_second, height=0.5, color=MAIN, label="measured, prompts included" if not place else ""
        )
        axes.text(figure.tokens_per_second, place, f" {figure.tokens_per_second:.1f}", va="center", ha="left")
        marks = {"predicted decode": (figure.predicted_tokens_per_second, "D", OTHER)}
        if figure.roofline_tokens_per_second < 4 * result.target_tokens_per_second:
            marks["bandwidth's roofline"] = (figure.roofline_tokens_per_second, "|", "0.3")
        for name, (speed, marker, colour) in marks.items():
            axes.plot(speed, place + 0.32, marker, color=colour, markersize=9, label=name if not place else "")
    target = result.target_tokens_per_second
    axes.axvline(target, linestyle="--", color="0.3", linewidth=2, label=f"target: {target:g} tokens/s")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.4)  # from the top; the last row's marks are clear of the axis
    axes.set_xlim(left=0)
    axes.set_xlabel("generated tokens of all prompts (tokens per second)")
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    kind = f"{result.parameter_count / 1e9:.2f} billion {'random weights: synthetic' if result.is_synthetic else 'weights'}"
    head = f"{'Passed' if result.passes else 'Not yet'}: {result.model_name} ({result.quantization})"
    machine = f"{result.system.cpu}, {counted(result.n_threads, 'thread')}; {kind}"
    axes.set_title("\n".join(textwrap.fill(text, 68) for text in (head, machine, result.verdict)), fontsize=10, loc="left")
    speeds = "; ".join(
        f"{name}: {figure.tokens_per_second:.1f} tokens/s measured, {figure.predicted_tokens_per_second:.1f} predicted"
        for name, figure in rows
    )
    axes.set_label(f"Bar chart. {head}, {machine}. {speeds}. Target {target:g} tokens/s. {result.verdict}.")
    return axes
