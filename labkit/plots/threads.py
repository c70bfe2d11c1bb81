"""Speed by number of threads, and its ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit.plots.picture import MAIN, OTHER, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_threads"]


def plot_threads(scaling: Any, *, axes: Axes | None = None) -> Axes:
    """Draw decode and prefill speed by number of threads, relative to the speed with the fewest threads.

    Parameters
    ----------
    scaling : ThreadScaling
        As `measure_threads` returns it.
    axes : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        One line each, with the speeds at the points; decode's ceiling dotted; cores marked.
    """
    axes = new_axes(4) if axes is None else axes
    speeds = scaling.speeds
    first = speeds[0]
    counts = [speed.n_threads for speed in speeds]
    lines = (
        ("decode", [s.decode_tokens_per_second for s in speeds], MAIN, "o", "-", -14),
        ("prefill", [s.prompt_tokens_per_second for s in speeds], OTHER, "s", "--", 8),
    )
    for name, values, colour, marker, style, shift in lines:
        axes.plot(counts, [v / values[0] for v in values], style, marker=marker, color=colour, label=f"{name} (tokens/s)")
        for count, value in zip(counts, values, strict=True):
            place = (count, value / values[0])
            axes.annotate(
                f"{value:.0f}" if value >= 10 else f"{value:.1f}", place, (0, shift), textcoords="offset points", ha="center"
            )
    ceiling = scaling.roofline_tokens_per_second / first.decode_tokens_per_second
    axes.axhline(
        ceiling, linestyle=":", color="0.3", label=f"decode's ceiling: {scaling.roofline_tokens_per_second:.0f} tokens/s"
    )
    _mark_cores(axes, scaling)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    axes.set_xlabel("threads")
    axes.set_ylabel(f"speed relative to {first.n_threads} thread{'s' if first.n_threads > 1 else ''}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best", fontsize=8)
    axes.set_label(_text(scaling))
    return axes


def _mark_cores(axes: Axes, scaling: Any) -> None:
    """Mark the numbers of physical and logical cores, with a line and a label each."""
    names = {scaling.physical_cores: "physical cores", scaling.logical_cores: "logical cores"}
    if scaling.physical_cores == scaling.logical_cores:
        names = {scaling.physical_cores: "all cores"}
    for count in names:
        axes.axvline(count, color="0.7", linewidth=1, zorder=0)
    counts = sorted({*(speed.n_threads for speed in scaling.speeds), *names})
    axes.set_xticks(counts, [f"{count}\n{names.get(count, '')}" for count in counts])


def _text(scaling: Any) -> str:
    rows = "; ".join(
        f"{s.n_threads} thread{'s' if s.n_threads > 1 else ''}: decode {s.decode_tokens_per_second:.1f}, "
        f"prefill {s.prompt_tokens_per_second:.1f} tokens/s"
        for s in scaling.speeds
    )
    return (
        f"Line chart of speed by number of threads. {rows}. Decode's ceiling by memory bandwidth: "
        f"{scaling.roofline_tokens_per_second:.1f} tokens/s. {scaling.physical_cores} physical and "
        f"{scaling.logical_cores} logical cores."
    )
