"""Speed by number of threads, measured and predicted, with its ceiling; and over time, next to a busy core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.plots.picture import MAIN, OTHER, new_axes, new_figure
from labkit.units import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_threads(
    scaling: Any, *, predicted: Mapping[int, float] | None = None, chosen: int = 0, axes: Axes | None = None
) -> Axes:
    """Draw decode and prefill speed by number of threads, relative to the speed with the fewest threads.

    Speeds are written at the points; the prediction and decode's ceiling are dotted; cores are marked.

    Parameters
    ----------
    scaling : ThreadScaling
        As `measure_threads` returns it; without speeds, only the prediction is drawn.
    predicted : mapping, optional
        Number of threads -> predicted decode speed, tokens per second.
    chosen : int
        A number of threads to mark; 0 is none.
    """
    axes = new_axes(4) if axes is None else axes
    speeds, predicted = scaling.speeds, predicted or {}
    counts = [speed.n_threads for speed in speeds]
    lines = (
        ("decode", [s.decode_tokens_per_second for s in speeds], MAIN, "o", "-"),
        ("prefill", [s.prompt_tokens_per_second for s in speeds], OTHER, "s", "--"),
    )
    for name, values, colour, marker, style in lines if speeds else ():
        axes.plot(counts, [v / values[0] for v in values], style, marker=marker, color=colour, label=f"{name} (tokens/s)")
    for speed in speeds:  # the upper point's label above it, the lower one's below
        points = [(each / values[0], each) for _, values, *_ in lines for each in [values[counts.index(speed.n_threads)]]]
        for shift, (place, value) in zip((-14, 8), sorted(points, key=lambda point: point[0]), strict=True):
            axes.annotate(_number(value), (speed.n_threads, place), (0, shift), textcoords="offset points", ha="center")
    for speed in (each for each in speeds if each.n_threads == chosen):
        place = speed.decode_tokens_per_second / speeds[0].decode_tokens_per_second
        axes.plot(chosen, place, "o", markersize=13, markerfacecolor="none", color="black")
    fewest, base = (counts[0], speeds[0].decode_tokens_per_second) if speeds else next(iter(predicted.items()))
    if predicted:
        relative = {count: speed / base for count, speed in predicted.items()}
        name = "decode, predicted (tokens/s)"
        axes.plot(
            list(relative), list(relative.values()), ":D", markerfacecolor="white", markersize=4, color="0.3", label=name
        )
    if chosen in predicted:
        point = (chosen, predicted[chosen] / base)
        side = "left" if chosen == min(predicted) else "center"  # the axis is there
        axes.plot(point[0], point[1], "D", color="black", markersize=8)
        axes.annotate(f"{_number(predicted[chosen])} predicted", point, (0, 10), textcoords="offset points", ha=side)
    axes.axhline(
        scaling.roofline_tokens_per_second / base,
        linestyle="-.",
        color="0.3",
        label=f"decode's ceiling: {scaling.roofline_tokens_per_second:.0f} tokens/s",
    )
    _mark_counts(axes, scaling, {*counts, *predicted}, chosen)
    axes.margins(x=0.1)
    highest = axes.get_ylim()[1]
    axes.set_ylim(-0.15 * highest, 1.5 * highest)  # room for the legend, and for labels below low points
    axes.set_xlabel("threads")
    axes.set_ylabel(f"speed relative to {counted(fewest, 'thread')}")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.set_label(_text(scaling, predicted, chosen))
    return axes


def _number(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"


def _mark_counts(axes: Axes, scaling: Any, counts: set[int], chosen: int) -> None:
    """Mark the numbers of physical and logical cores, with a line and a label each, and the chosen number of threads."""
    names = {scaling.physical_cores: "physical cores", scaling.logical_cores: "logical cores"}
    if scaling.physical_cores == scaling.logical_cores:
        names = {scaling.physical_cores: "all cores"}
    for count in names:
        axes.axvline(count, color="0.7", linewidth=1, zorder=0)
    ticks = sorted({*counts, *names})
    axes.set_xticks(ticks, [f"{count}{' ◀' if count == chosen else ''}\n{names.get(count, '')}" for count in ticks])


def _text(scaling: Any, predicted: Mapping[int, float], chosen: int) -> str:
    measured = "; ".join(
        f"{counted(s.n_threads, 'thread')}: decode {s.decode_tokens_per_second:.1f}, "
        f"prefill {s.prompt_tokens_per_second:.1f} tokens/s"
        for s in scaling.speeds
    )
    expected = "; ".join(f"{count}: {speed:.1f}" for count, speed in predicted.items())
    return (
        f"Line chart of speed by number of threads. {f'{measured}. ' if measured else ''}"
        f"{f'Predicted decode speed by threads: {expected} tokens/s. ' if expected else ''}"
        f"{f'Marked: {chosen}. ' if chosen in predicted else ''}Decode's ceiling by memory bandwidth: "
        f"{scaling.roofline_tokens_per_second:.1f} tokens/s. {scaling.physical_cores} physical and "
        f"{scaling.logical_cores} logical cores."
    )


def plot_busy_core(
    times_s: Sequence[float],
    speeds: Sequence[float],
    threads: Sequence[int],
    *,
    busy_s: tuple[float, float],
    predicted: tuple[float, float],
    end_s: float,
    n_threads: int,
    text: str,
) -> Figure:
    """Draw decode speed over time, and below it the threads; the busy time is hatched and labelled.

    Each sample has the time of its end, tokens per second and threads. ``predicted`` are the speeds with all cores free and
    with one busy, a dashed line. ``end_s`` ends the time axis, so that it does not move; ``text`` describes the picture.
    """
    figure = new_figure(6, 4)
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.13, top=0.96, hspace=0.12)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    for axes in (upper, lower):
        axes.axvspan(*busy_s, facecolor="0.95", edgecolor="0.8", hatch="//", linewidth=0, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    free, next_to_busy = predicted
    edges = [0.0, *busy_s, end_s]
    upper.plot(edges, [free, next_to_busy, free, free], "--", drawstyle="steps-post", color="0.3", label="predicted")
    upper.plot(times_s, speeds, "o-", markersize=3, color=MAIN, label="measured")
    upper.text(sum(busy_s) / 2, 0.98, "one core busy", transform=upper.get_xaxis_transform(), ha="center", va="top")
    upper.set_ylim(0, 1.5 * max(*predicted, *speeds))
    upper.set_ylabel("decode (tokens/s)")
    upper.legend(frameon=False, loc="upper right", fontsize=8)
    lower.plot(times_s, threads, "s-", markersize=3, drawstyle="steps-mid", color=OTHER)
    lower.set_ylim(0, n_threads + 0.5)
    lower.yaxis.get_major_locator().set_params(integer=True)
    lower.set_ylabel("threads")
    lower.set_xlabel("time (s)")
    lower.set_xlim(0, end_s)
    figure.set_label(text)
    return figure
