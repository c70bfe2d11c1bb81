"""Speed and threads over time, next to a busy core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.plots.picture import MAIN, OTHER, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
