"""Names next to points, without covering each other or a marker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.plots.picture import inches_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, lower, right and upper end, in points

_FONT = 9.0  # points
_PLACES = ((7, 0), (-7, 0), (0, 11), (0, -11), (6, 9), (-6, 9), (6, -9), (-6, -9))  # points from a marker to its name


def name_points(axes: Axes, names: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    """Write each name next to its point; text sizes are estimated, since measuring them is slow."""
    room = [72 * inches for inches in inches_of(axes)]
    where = axes.transAxes.inverted().transform(axes.transData.transform(points)) * room
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in where]
    for name, (x, y) in sorted(zip(names, where, strict=True), key=lambda row: -len(row[0])):  # long names first
        boxes = [_box(x + right, y + up, right, len(name)) for right, up in _PLACES]
        best = min(range(len(boxes)), key=lambda index: sum(_overlap(boxes[index], other) for other in taken))
        taken.append(boxes[best])
        right, up = _PLACES[best]
        at = (x + right) / room[0], (y + up) / room[1]
        align: Any = "center" if right == 0 else "left" if right > 0 else "right"
        weight: Any = "bold" if " " in name else "normal"
        label = axes.text(*at, name, transform=axes.transAxes, ha=align, va="center", fontsize=_FONT, weight=weight)
        label.set_in_layout(False)


def _box(x: float, y: float, right: float, n_letters: int) -> Box:
    """Estimate the box of a text at x, y."""
    width = 0.72 * _FONT * n_letters
    left = x - width / 2 if right == 0 else x if right > 0 else x - width
    return left, y - _FONT / 2, left + width, y + _FONT / 2


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
