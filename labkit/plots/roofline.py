"""The roofline: the speed that a machine's memory and arithmetic allow, by operations per byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labkit.errors import ArgumentError
from labkit.plots.picture import MAIN, OTHER, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, float]

_LINES = ((MAIN, "-"), (OTHER, "--"), ("0.3", ":"))
_MARKERS = "osD^vP"


def plot_roofline(machines: Mapping[str, Point], points: Mapping[str, Point], *, axes: Axes | None = None) -> Axes:
    """Draw the roof of one or more machines, and measured or predicted speeds under it.

    Operations per second are drawn over operations per byte, on logarithmic axes.

    Parameters
    ----------
    machines : mapping
        Name -> (bytes read per second, operations per second).
    points : mapping
        Name -> (operations per byte, operations per second), as `PassWork.at` returns them.

    Raises
    ------
    ArgumentError
        Without a machine, or for a number that is not positive.

    Examples
    --------
    >>> plot_roofline({"laptop": (50e9, 400e9)}, {"one text": (4, 100e9)}).get_label()
    'Roofline. laptop: 50 GB/s and 400 billion operations/s, ridge at 8 operations per byte. one text: 4.0 operations per \
byte, 100 billion operations/s, 50 % of the roof of laptop.'
    """
    numbers = [number for pair in (*machines.values(), *points.values()) for number in pair]
    if not machines or min(numbers) <= 0:
        raise ArgumentError("a roofline needs at least one machine, and positive numbers")
    axes = new_axes(4) if axes is None else axes
    ridges = {name: operations / bandwidth for name, (bandwidth, operations) in machines.items()}
    places = [*ridges.values(), *(x for x, _ in points.values())]
    left, right = min(*places, 2.0) / 12, max(4 * max(*places, 100.0), 30 * max(ridges.values()))
    for (name, (bandwidth, operations)), (colour, style) in zip(machines.items(), _LINES, strict=False):
        ridge = ridges[name]
        ends = [(left, left * bandwidth), (min(ridge, right), min(operations, right * bandwidth)), (right, operations)]
        axes.plot(*zip(*ends, strict=True), style, color=colour, linewidth=2, label=_machine(name, bandwidth, operations))
    for (name, point), marker in zip(points.items(), _MARKERS * len(points), strict=False):
        axes.plot(*point, marker, color="black", markersize=8, markerfacecolor="white", markeredgewidth=2, linestyle="")
        slopes = point[0] < 3 * next(iter(ridges.values()))  # then the roof is at the left of the name
        axes.annotate(name.replace(": ", ":\n"), point, (9 if slopes else 0, -9), textcoords="offset points", va="top",
                      ha="left" if slopes else "center", fontsize=9)  # fmt: skip
    first = next(iter(ridges))
    for side, shift in (("reading is the limit ", -4), (" computing is the limit", 4)):
        align: Any = "right" if shift < 0 else "left"
        axes.annotate(side, (ridges[first], 0.03), (shift, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha=align, fontsize=9)  # fmt: skip
    heights = [y for _, y in points.values()]
    axes.set(xscale="log", yscale="log", xlim=(left, right))
    lowest = min([*heights, *(left * bandwidth for bandwidth, _ in machines.values())])
    highest = max([*heights, *(operations for _, operations in machines.values())])
    axes.set_ylim(lowest / 4, highest * (highest / lowest) ** (0.12 * (1 + len(machines))))  # room for the legend
    axes.vlines(ridges[first], lowest / 4, machines[first][1], color="0.7", linewidth=1, zorder=0)
    axes.set_xlabel("operations per byte read")
    axes.set_ylabel("operations per second")
    axes.legend(framealpha=1, edgecolor="white", loc="upper left", fontsize=9)
    axes.set_label(_text(machines, points))
    return axes


def _machine(name: str, bandwidth: float, operations: float) -> str:
    return f"{name}: {bandwidth / 1e9:,.0f} GB/s and {operations / 1e9:,.0f} billion operations/s"


def _text(machines: Mapping[str, Point], points: Mapping[str, Point]) -> str:
    first, (bandwidth, most) = next(iter(machines.items()))
    roofs = "; ".join(
        f"{_machine(name, *pair)}, ridge at {pair[1] / pair[0]:,.2g} operations per byte" for name, pair in machines.items()
    )
    found = " ".join(
        f"{name}: {x:,.1f} operations per byte, {y / 1e9:,.0f} billion operations/s, "
        f"{100 * y / min(most, x * bandwidth):.0f} % of the roof of {first}."
        for name, (x, y) in points.items()
    )
    return f"Roofline. {roofs}. {found}".strip()
