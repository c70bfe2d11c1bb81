"""The effect of quantization on weights: some weights before and after, the errors, and other types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from labkit.plots.picture import MAIN, OTHER, new_figure
from labkit.plots.point_names import name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]

_HEIGHT = 7.0  # inches; the panels are stacked, so that they fit on a phone
_PANELS = ((0.775, 0.185), (0.48, 0.185), (0.075, 0.305))  # bottom and height of each, as fractions of the figure
_BINS = 41


def plot_quantization(
    before: Floats, after: Floats, errors: Floats, types: Mapping[str, tuple[float, float]], *, chosen: str, first: int = 0
) -> Figure:
    """Draw three panels: weights before and after, a histogram of errors, and error against bits per weight.

    ``errors`` are of all computed weights; ``types`` has bits per weight, and RMS error as a fraction of the weights' RMS.
    ``chosen``, the type of ``after``, is marked; ``first`` is the index of the first weight in its tensor.
    """
    figure = new_figure(6, _HEIGHT)
    strip, histogram, costs = (figure.add_axes((0.15, bottom, 0.82, height)) for bottom, height in _PANELS)
    plot_weights(before, after, first=first, name=chosen, axes=strip)
    _draw_errors(histogram, errors)
    _draw_costs(costs, types, chosen)
    rows = "; ".join(f"{name}: {bits:.4g} bits, error {100 * error:.2g} %" for name, (bits, error) in types.items())
    figure.set_label(
        f"{strip.get_label()} Histogram of {len(errors):,} errors from {errors.min():.3g} to {errors.max():.3g}. "
        f"Error against bits per weight: {rows}."
    )
    return figure


def plot_weights(before: Floats, after: Floats | None = None, *, first: int = 0, name: str = "", axes: Axes) -> Axes:
    """Draw neighbouring weights, from index ``first`` on, as steps; and after quantization with type ``name``, as dots."""
    places = np.arange(first, first + len(before) + 1) - 0.5
    axes.stairs(before, places, baseline=None, color=OTHER, linewidth=2, label="before")
    if after is not None:
        axes.plot(places[:-1] + 0.5, after, "o", color=MAIN, markersize=3, label=f"after, as {name}")
        axes.legend(frameon=False, loc="lower right", ncols=2, bbox_to_anchor=(1, 1), borderaxespad=0)
    axes.set_xlim(places[0], places[-1])
    axes.locator_params(nbins=5)
    axes.set_xlabel("index of the weight in its tensor")
    axes.set_ylabel("weight")
    axes.spines[["top", "right"]].set_visible(False)
    last = first + len(before) - 1
    quantized = "" if after is None else f" before and after {name}"
    axes.set_label(f"Weights {first:,} to {last:,}{quantized}, from {before.min():.3g} to {before.max():.3g}.")
    return axes


def _draw_errors(axes: Axes, errors: Floats) -> None:
    """Draw a histogram of the errors as one outline."""
    reach = float(np.abs(errors).max()) or 1.0
    counts, edges = np.histogram(errors, bins=_BINS, range=(-reach, reach))
    axes.stairs(100 * counts / len(errors), edges, fill=True, color=MAIN)
    axes.set_xlim(-1.02 * reach, 1.02 * reach)
    axes.locator_params(nbins=4)
    axes.set_xlabel("error (after minus before)")
    axes.set_ylabel("weights (%)")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_costs(axes: Axes, types: Mapping[str, tuple[float, float]], chosen: str) -> None:
    """Draw one point per type; the chosen one is a square."""
    bits, percents = [bits for bits, _ in types.values()], [100 * loss for _, loss in types.values()]
    lowest = min((one for one in percents if one > 1e-3), default=1.0)
    linear = 10.0 ** math.floor(math.log10(lowest))
    axes.set_yscale("symlog", linthresh=linear, linscale=0.5)
    ticks = [0.0, *(power for power in (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0) if linear <= power <= 2 * max(linear, *percents))]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    place = list(types).index(chosen)
    axes.plot(bits, percents, "o", color=OTHER, markersize=6, clip_on=False)
    axes.plot(bits[place], percents[place], "s", color=MAIN, markersize=9, clip_on=False)
    axes.set_xlim(min(bits) - 0.5, max(bits) + 0.7)
    axes.set_ylim(-0.3 * linear, 3 * max(linear, *percents))
    axes.set_xticks(range(math.ceil(min(bits) - 0.5), math.floor(max(bits) + 0.7) + 1))
    axes.grid(visible=True, axis="y", color="0.9")
    axes.set_xlabel("bits per weight")
    axes.set_ylabel("error\n(% of the weights' RMS)")
    axes.spines[["top", "right"]].set_visible(False)
    name_points(
        axes, [f"{name} (chosen)" if name == chosen else name for name in types], list(zip(bits, percents, strict=True))
    )
