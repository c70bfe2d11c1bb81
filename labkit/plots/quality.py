"""Quality and speed of quantization types against file size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.plots.picture import MAIN, OTHER, new_figure
from labkit.plots.point_names import name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_tradeoff(comparison: Any) -> Figure:
    """Draw the trade-off between types: divergence against file size, and decode speed.

    Left: one point per type, the reference a square at 0. Right: one bar per type, the largest file first, the reference
    hatched.

    Parameters
    ----------
    comparison : QuantizationComparison
        As `compare_quantizations` returns it.

    Notes
    -----
    The divergence axis is logarithmic down to the power of ten below the smallest value, and linear from there to 0.
    """
    rows = sorted(comparison.rows, key=lambda row: -row.file_size_bytes)
    figure = new_figure(7, max(3.6, 1.2 + 0.36 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_speeds(right, rows)
    points = _draw_losses(left, rows)
    figure.draw_without_rendering()  # computes the layout
    name_points(left, [row.quantization for row in rows], points)
    figure.set_label(_tradeoff_text(comparison, rows))
    return figure


def _draw_losses(axes: Axes, rows: Sequence[Any]) -> list[tuple[float, float]]:
    """Draw the divergence of each type against its file size; return the points."""
    lowest = min((row.kl_divergence for row in rows if row.kl_divergence > 0), default=0.1)
    linear = 10.0 ** math.floor(math.log10(lowest))
    axes.set_yscale("symlog", linthresh=linear, linscale=0.5)
    sizes, losses = [row.file_size_bytes / 1e6 for row in rows], [max(0.0, row.kl_divergence) for row in rows]
    for size, loss, row in zip(sizes, losses, rows, strict=True):
        marker, color = ("s", OTHER) if row.is_reference else ("o", MAIN)
        axes.plot(size, loss, marker, color=color, markersize=7, clip_on=False)
    axes.set_ylim(-0.25 * linear, 3 * max(linear, *losses))
    axes.margins(x=0.3)
    axes.grid(visible=True, axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.set_title("quality loss")
    axes.set_xlabel("file size (MB)")
    axes.set_ylabel("KL divergence from the reference\n(nats per token; 0: same predictions)")
    axes.spines[["top", "right"]].set_visible(False)
    return list(zip(sizes, losses, strict=True))


def _draw_speeds(axes: Axes, rows: Sequence[Any]) -> None:
    """Draw a bar for each type's speed as a multiple of the reference's."""
    bars = axes.barh(
        [row.quantization for row in rows],
        [row.decode_ratio for row in rows],
        color=[OTHER if row.is_reference else MAIN for row in rows],
        hatch=["//" if row.is_reference else "" for row in rows],
        edgecolor="white",
    )
    axes.bar_label(bars, labels=[f"{row.decode_ratio:.2f}" for row in rows], padding=4)
    axes.axvline(1, color="0.3", linestyle="--", linewidth=1)
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.set_title("speed gain")
    axes.set_xlabel("decode speed\n(multiple of the reference's)")
    axes.set_ylabel("type, largest file first")
    axes.spines[["top", "right"]].set_visible(False)


def _tradeoff_text(comparison: Any, rows: Sequence[Any]) -> str:
    points = "; ".join(
        f"{row.quantization}: {row.file_size_bytes / 1e6:.1f} MB, KL divergence {row.kl_divergence:.4f}, "
        f"{row.decode_ratio:.2f} times the speed"
        for row in rows
    )
    return (
        "Two panels for the types of one model: KL divergence in nats per token against file size, and decode speed as a "
        f"multiple of the reference's. The reference is {comparison.reference}. {points}."
    )
