"""A record -> matplotlib Axes, and the picture that a notebook shows of them, with a text for those who do not see it.

Every ``plot_…`` draws into an Axes, its own or one that is given, or makes a Figure of several panels. It names all axes
with their units, tells things apart by more than colour, and sets the label of what it returns to what the picture says in
words. `Picture` turns that into HTML with the text beside it; a bare figure would have none in JupyterLab.
"""

from __future__ import annotations

import base64
import html
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.errors import ArgumentError
from labkit.metadata import ModelInfo

if TYPE_CHECKING:  # matplotlib is imported when something is drawn, the engine by who measures
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labkit.benchmark import BenchmarkResult
    from labkit.memory import MemoryEstimate
    from labkit.milestone import MilestoneResult
    from labkit.quality import QuantizationComparison, QuantizationQuality

__all__ = ["Picture", "plot_benchmark", "plot_bytes", "plot_memory", "plot_milestone", "plot_tradeoff"]

_MAIN = "#0072B2"  # blue and orange of Okabe and Ito: apart for every kind of colour vision, and in grey
_OTHER = "#E69F00"
_MIB = 2**20


class Picture:
    """A figure as HTML with an alternative text: the last line of a cell shows it.

    Parameters
    ----------
    drawn : Axes or Figure
        As a ``plot_…`` function returns it; its label becomes the text.
    """

    def __init__(self, drawn: Axes | Figure) -> None:
        self.drawn = drawn

    @property
    def text(self) -> str:
        """What the picture says, in words."""
        return str(self.drawn.get_label())

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self.drawn.figure.canvas.print_figure(buffer, format="png", dpi=144)
        picture = base64.b64encode(buffer.getvalue()).decode("ascii")
        alt = html.escape(self.text, quote=True)
        return f'<img alt="{alt}" src="data:image/png;base64,{picture}" style="width:40em;max-width:100%">'


def plot_bytes(info: ModelInfo, *, axes: Axes | None = None) -> Axes:
    """Draw where a file's bytes are: a bar for each tensor type, and one for the header.

    Parameters
    ----------
    info : ModelInfo
        As `get_model_info` returns it.
    axes : Axes, optional
        Where to draw; a figure of its own by default.

    Returns
    -------
    Axes
        Bars in MiB, the longest first; the header's bar, hatched, is last and holds the padding between tensors too.

    Examples
    --------
    >>> from labkit import get_model_info
    >>> plot_bytes(get_model_info()).get_label()[:59]
    'Bar chart of the bytes in a file of 93.8 MiB. Q4_1, 210 ten'
    """
    parts = _bytes_by_part(info)
    axes = _new_axes(0.8 + 0.45 * len(parts)) if axes is None else axes
    quantity = [f"{n_bytes / _MIB:.2f} MiB, {n_bytes / info.file_size_bytes:.1%}" for n_bytes in parts.values()]
    last = len(parts) - 1
    bars = axes.barh(
        list(parts),
        [n_bytes / _MIB for n_bytes in parts.values()],
        color=[_MAIN] * last + [_OTHER],
        hatch=[""] * last + ["//"],
        edgecolor="white",
    )
    axes.bar_label(bars, labels=quantity, padding=4)
    axes.margins(x=0.28)
    axes.invert_yaxis()
    axes.set_xlabel("size (MiB)")
    axes.set_ylabel("part of the file")
    axes.spines[["top", "right"]].set_visible(False)
    rows = "; ".join(f"{part}: {text}" for part, text in zip(parts, quantity, strict=True))
    axes.set_label(f"Bar chart of the bytes in a file of {info.file_size_bytes / _MIB:.1f} MiB. {rows}.")
    return axes


def _bytes_by_part(info: ModelInfo) -> dict[str, int]:
    """Return the bytes of each tensor type, and of what is no tensor."""
    parts = {}
    for name, (count, n_bytes) in info.tensor_types.items():
        parts[f"{name}, {count:,} tensor{'' if count == 1 else 's'}"] = n_bytes
    return {**parts, "header": info.file_size_bytes - info.weights_bytes}


def _new_axes(height_inches: float) -> Axes:
    """Return the Axes of a new figure that belongs to nobody: pyplot would keep it, and show it a second time."""
    from matplotlib.figure import Figure

    return Figure(figsize=(8, height_inches), layout="constrained").add_subplot()


# What takes memory, from the bottom up: a colour and a hatch each (Okabe and Ito's colours).
_PARTS = {
    "weights": ("#0072B2", ""),
    "repacked weights": ("#56B4E9", "//"),
    "cache": ("#E69F00", ""),
    "state": ("#F0E442", "\\\\"),
    "compute": ("#009E73", ".."),
    "output": ("#CC79A7", "xx"),
    "runtime": ("#999999", "--"),
}


def plot_memory(
    estimates: MemoryEstimate | Mapping[str, MemoryEstimate], *, ram_bytes: int | None = None, axes: Axes | None = None
) -> Axes:
    """Draw what models take, a bar for each device: its parts one behind the other, and the RAM that there is.

    Parameters
    ----------
    estimates : MemoryEstimate or mapping
        As `estimate_memory_usage` returns it; or several, by what to call them.
    ram_bytes : int, optional
        Where to draw the line; the estimate's own ``available_bytes`` where that is at most three times the longest bar.
    axes : Axes, optional
        Where to draw; a figure of its own by default.

    Returns
    -------
    Axes
        Bars in MiB, resident at the peak.

    Examples
    --------
    >>> from labkit import estimate_memory_usage
    >>> plot_memory(estimate_memory_usage(method="formula")).get_label()[:57]
    'Bar chart of memory at its peak. CPU: 270.2 MiB (weights '
    """
    from labkit.memory import MemoryEstimate as Estimate  # a mapping too, so the type has to be asked

    named = {"": estimates} if isinstance(estimates, Estimate) else dict(estimates)
    bars = [
        (f"{name} on {device}" if name and len(estimate.by_device()) > 1 else name or device, device, estimate)
        for name, estimate in named.items()
        for device in estimate.by_device()
    ]
    axes = _new_axes(1.5 + 0.55 * len(bars)) if axes is None else axes
    spoken = []
    for row, (label, device, estimate) in enumerate(bars):
        left, said = 0.0, []
        for part in (part for part in estimate.parts if part.device == device):
            colour, hatch = _PARTS[part.name]
            axes.barh(row, part.resident_bytes / _MIB, left=left, color=colour, hatch=hatch, edgecolor="white")
            left += part.resident_bytes / _MIB
            said.append(f"{part.name} {part.resident_bytes / _MIB:.1f}")
        axes.text(left, row, f" {left:,.0f} MiB", va="center")
        spoken.append(f"{label}: {left:.1f} MiB ({', '.join(said)})")
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    limit = _draw_ram(axes, bars, ram_bytes)
    _add_legend(axes, {part.name for _, _, estimate in bars for part in estimate.parts})
    axes.set_xlabel("memory when the context is full (MiB)")
    axes.set_ylabel("device" if len(named) == 1 else "model")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_label(f"Bar chart of memory at its peak. {'; '.join(spoken)}.{limit}")
    return axes


def _draw_ram(axes: Axes, bars: Sequence[tuple[str, str, MemoryEstimate]], ram_bytes: int | None) -> str:
    """Draw the RAM as a line, where it is given or near the bars; return what it says."""
    longest = max(estimate.by_device()[device] for _, device, estimate in bars)
    ram = bars[0][2].available_bytes if ram_bytes is None else ram_bytes
    if ram_bytes is None and ram > 3 * longest:
        return ""
    axes.axvline(ram / _MIB, color="black", linestyle="--")
    axes.annotate(
        f"RAM: {ram / _MIB:,.0f} MiB ", (ram / _MIB, 1.0), xycoords=("data", "axes fraction"), ha="right", va="bottom"
    )
    return f" RAM: {ram / _MIB:.0f} MiB."


def _add_legend(axes: Axes, names: set[str]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=name)
        for name, (colour, hatch) in _PARTS.items()
        if name in names
    ]
    axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.45, -0.28), ncols=4, frameon=False)


def plot_tradeoff(comparison: QuantizationComparison) -> Figure:
    """Draw what each type costs and gives: divergence against file size, and decode speed.

    Parameters
    ----------
    comparison : QuantizationComparison
        As `compare_quantizations` returns it.

    Returns
    -------
    Figure
        Left a point a type, the reference a square at 0; right a bar a type, the largest file first, the reference hatched.

    Notes
    -----
    The axis of the divergence is logarithmic down to the power of ten below its smallest value, and linear from there to 0.
    """
    from matplotlib.figure import Figure

    rows = sorted(comparison.rows, key=lambda row: -row.file_size_bytes)
    figure = Figure(figsize=(8, max(3.6, 1.2 + 0.36 * len(rows))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_speeds(right, rows)
    points = _draw_losses(left, rows)
    figure.draw_without_rendering()  # so that the layout is known
    _name_points(left, [row.quantization for row in rows], points)
    figure.set_label(_tradeoff_text(comparison, rows))
    return figure


def _draw_losses(axes: Axes, rows: Sequence[QuantizationQuality]) -> list[tuple[float, float]]:
    """Draw the divergence of each type against its size; returns the points."""
    lowest = min((row.kl_divergence for row in rows if row.kl_divergence > 0), default=0.1)
    linear = 10.0 ** math.floor(math.log10(lowest))
    axes.set_yscale("symlog", linthresh=linear, linscale=0.5)
    sizes, losses = [row.file_size_bytes / 1e6 for row in rows], [max(0.0, row.kl_divergence) for row in rows]
    for size, loss, row in zip(sizes, losses, rows, strict=True):
        marker, color = ("s", _OTHER) if row.is_reference else ("o", _MAIN)
        axes.plot(size, loss, marker, color=color, markersize=7, clip_on=False)
    axes.set_ylim(-0.25 * linear, 3 * max(linear, *losses))
    axes.margins(x=0.16)
    axes.grid(visible=True, axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.set_title("what is lost")
    axes.set_xlabel("file size (MB)")
    axes.set_ylabel("KL divergence from the reference\n(nats a token; 0 is the same forecast)")
    axes.spines[["top", "right"]].set_visible(False)
    return list(zip(sizes, losses, strict=True))


def _draw_speeds(axes: Axes, rows: Sequence[QuantizationQuality]) -> None:
    """Draw a bar for each type's speed, as a multiple of the reference's."""
    bars = axes.barh(
        [row.quantization for row in rows],
        [row.decode_ratio for row in rows],
        color=[_OTHER if row.is_reference else _MAIN for row in rows],
        hatch=["//" if row.is_reference else "" for row in rows],
        edgecolor="white",
    )
    axes.bar_label(bars, labels=[f"{row.decode_ratio:.2f}" for row in rows], padding=4)
    axes.axvline(1, color="0.3", linestyle="--", linewidth=1)
    axes.margins(x=0.18)
    axes.invert_yaxis()
    axes.set_title("what is gained")
    axes.set_xlabel("decode speed\n(multiple of the reference's)")
    axes.set_ylabel("type, the largest file first")
    axes.spines[["top", "right"]].set_visible(False)


_PLACES = [(8, 0), (-8, 0), (0, 9), (0, -9), (8, 10), (-8, 10), (8, -10), (-8, -10)]  # points to a name from its marker


def _name_points(axes: Axes, names: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    """Write each name beside its point, where it covers neither another name nor a point."""
    from matplotlib.transforms import Bbox

    pixels = axes.transData.transform(points)
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in pixels]
    for name, point in zip(names, points, strict=True):
        labels = [axes.annotate(name, point, place, textcoords="offset points", **_align(place)) for place in _PLACES]
        boxes = [label.get_window_extent() for label in labels]
        best = min(range(len(labels)), key=lambda index: boxes[index].count_overlaps(taken))
        taken.append(boxes[best])
        for index, label in enumerate(labels):
            label.set_in_layout(False)
            if index != best:
                label.remove()


def _align(place: tuple[int, int]) -> dict[str, Any]:
    return {"va": "center", "ha": "left" if place[0] > 0 else "right" if place[0] < 0 else "center"}


def _tradeoff_text(comparison: QuantizationComparison, rows: Sequence[QuantizationQuality]) -> str:
    points = "; ".join(
        f"{row.quantization}: {row.file_size_bytes / 1e6:.1f} MB, KL divergence {row.kl_divergence:.4f}, "
        f"{row.decode_ratio:.2f} times the speed"
        for row in rows
    )
    return (
        "Two panels for the types of one model: KL divergence in nats a token against file size, and decode speed as a "
        f"multiple of the reference's. The reference is {comparison.reference}. {points}."
    )


def plot_benchmark(result: BenchmarkResult, *, axes: Axes | None = None) -> Axes:
    """Draw how long each token was waited for: the median of all runs, their range, and the engine alone.

    Parameters
    ----------
    result : BenchmarkResult
        As `benchmark_inference` returns it, with ``max_tokens`` of at least 2.
    axes : Axes, optional
        Where to draw; a figure of its own by default.

    Returns
    -------
    Axes
        Milliseconds against the place of the token; the first token, which waits for the prompt, is told in the title.

    Raises
    ------
    ArgumentError
        When there is no pause between two tokens to draw.
    """
    places = [sorted(1e3 * pause for pause in place) for place in _pauses(result)]
    axes = _new_axes(4) if axes is None else axes
    x = range(2, len(places) + 2)
    axes.fill_between(x, [p[0] for p in places], [p[-1] for p in places], color=_MAIN, alpha=0.2, label="all runs")
    axes.plot(x, [statistics.median(p) for p in places], "o-", color=_MAIN, markersize=3, linewidth=1, label="median")
    lines = {"95 % are below": (result.inter_token_latency_p95_s, "--", "0.3")}
    if result.engine_decode_tokens_per_second is not None:
        lines[f"engine alone ({result.engine_test[1]})"] = (1 / result.engine_decode_tokens_per_second, ":", _OTHER)
    for name, (seconds, style, colour) in lines.items():
        axes.axhline(1e3 * (seconds or 0), linestyle=style, color=colour, linewidth=2, label=name)
    speed = result.decode_tokens_per_second or 0.0
    title = f"first token after {1e3 * result.time_to_first_token_s:.0f} ms, then {speed:.1f} tokens/s"
    axes.set_title(title)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("place of the token in the text (tokens)")
    axes.set_ylabel("time since the token before (ms)")
    axes.legend(frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    spoken = "; ".join(f"{name}: {1e3 * (seconds or 0):.2f} ms" for name, (seconds, _, _) in lines.items())
    pause = 1e3 * (result.inter_token_latency_s or 0)
    axes.set_label(
        f"Line chart of the pauses between {result.settings.max_tokens:,} tokens of {result.settings.model}, the median and "
        f"the range of {len(result.runs):,} runs: {title}. Median pause: {pause:.2f} ms; {spoken}."
    )
    return axes


def _pauses(result: BenchmarkResult) -> list[tuple[float, ...]]:
    """Return the pauses of all runs before the second token, before the third, and so on."""
    places = list(zip(*(run.inter_token_latencies_s for run in result.runs), strict=False))
    if not places:
        raise ArgumentError("max_tokens=1 leaves no pause between two tokens to draw: run the benchmark with more")
    return places


def plot_milestone(result: MilestoneResult, *, axes: Axes | None = None) -> Axes:
    """Draw the milestone's card: measured speeds, what was foretold, what bandwidth allows, and the target.

    Parameters
    ----------
    result : MilestoneResult
        As `run_milestone` returns it.
    axes : Axes, optional
        Where to draw; a figure of its own by default.

    Returns
    -------
    Axes
        Tokens per second, a row for one stream and one for the prompts together.
    """
    import textwrap

    axes = _new_axes(4) if axes is None else axes
    rows = result.figures()
    for place, (_, figure) in enumerate(rows):
        axes.barh(
            place, figure.tokens_per_second, height=0.5, color=_MAIN, label="measured, prompts included" if not place else ""
        )
        axes.text(figure.tokens_per_second, place, f" {figure.tokens_per_second:.1f}", va="center", ha="left")
        marks = {"foretold decode": (figure.predicted_tokens_per_second, "D", _OTHER)}
        if figure.roofline_tokens_per_second < 4 * result.target_tokens_per_second:
            marks["bandwidth's roofline"] = (figure.roofline_tokens_per_second, "|", "0.3")
        for name, (speed, marker, colour) in marks.items():
            axes.plot(speed, place + 0.32, marker, color=colour, markersize=9, label=name if not place else "")
    target = result.target_tokens_per_second
    axes.axvline(target, linestyle="--", color="0.3", linewidth=2, label=f"target: {target:g} tokens/s")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("generated tokens of all prompts (tokens per second)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    kind = f"{result.parameter_count / 1e9:.2f} billion {'random weights: synthetic' if result.is_synthetic else 'weights'}"
    head = f"{'Passed' if result.passes else 'Not yet'}: {result.model_name} ({result.quantization})"
    machine = f"{result.system.cpu}, {result.n_threads} threads; {kind}"
    axes.set_title(f"{head}\n{machine}\n" + "\n".join(textwrap.wrap(result.verdict, 80)), fontsize=10, loc="left")
    speeds = "; ".join(
        f"{name}: {figure.tokens_per_second:.1f} tokens/s measured, {figure.predicted_tokens_per_second:.1f} foretold"
        for name, figure in rows
    )
    axes.set_label(f"Bar chart. {head}, {machine}. {speeds}. Target {target:g} tokens/s. {result.verdict}.")
    return axes
