"""A treemap: tiles in groups, with areas proportional to their sizes."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labkit.plots.picture import MIB, inches_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (
    "#56B4E9",
    "#E69F00",
    "#009E73",
    "#F0E442",
    "#CC79A7",
    "#999999",
    "#D55E00",
)  # Okabe and Ito: black text is readable on them
_MAX_TILES = 1000  # more would be smaller than a pixel
_LETTER = 0.085  # width of a letter of 9 points, inches


@dataclasses.dataclass(frozen=True)
class Tile:
    """A rectangle: its lower left corner and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Width times height."""
        return self.width * self.height

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The four corners, in order."""
        right, top = self.x + self.width, self.y + self.height
        return [(self.x, self.y), (right, self.y), (right, top), (self.x, top)]


def squarify(sizes: Sequence[float], room: Tile) -> list[Tile]:
    """Divide a rectangle into tiles that are nearly square, with areas proportional to the sizes; largest first is best.

    References
    ----------
    M. Bruls, K. Huizing, J. van Wijk, "Squarified Treemaps", 2000.

    Examples
    --------
    >>> [tile.area for tile in squarify([6, 3, 3], Tile(0, 0, 4, 3))]
    [6.0, 3.0, 3.0]
    """
    total = float(sum(sizes))
    areas = [size / total * room.area if total else 0.0 for size in sizes]
    tiles: list[Tile] = []
    while len(tiles) < len(areas):
        count = _strip_length(areas[len(tiles) :], min(room.width, room.height))
        strip = areas[len(tiles) : len(tiles) + count]
        placed, room = _place(strip, room)
        tiles += placed
    return tiles


def _strip_length(areas: Sequence[float], side: float) -> int:
    """Return how many tiles to put along a side: as many as do not worsen the worst aspect ratio."""
    best, total = float("inf"), 0.0
    for count, area in enumerate(areas, start=1):
        total += area
        least, most = min(areas[0], area), max(areas[0], area)
        if least <= 0 or side <= 0:
            return max(1, count - 1) if total > 0 else count
        worst = max(side**2 * most / total**2, total**2 / (side**2 * least))
        if worst > best:
            return count - 1
        best = worst
    return len(areas)


def _place(strip: Sequence[float], room: Tile) -> tuple[list[Tile], Tile]:
    """Put a strip of tiles along the shorter side; return them and the remaining rectangle."""
    wide, total = room.width >= room.height, sum(strip)
    side = room.height if wide else room.width
    depth = min(total / side if side else 0.0, room.width if wide else room.height)
    tiles, at = [], 0.0
    for area in strip:
        length = side * area / total if total else 0.0
        if wide:
            tiles.append(Tile(room.x, room.y + at, depth, length))
        else:
            tiles.append(Tile(room.x + at, room.y, length, depth))
        at += length
    if wide:
        return tiles, Tile(room.x + depth, room.y, room.width - depth, room.height)
    return tiles, Tile(room.x, room.y + depth, room.width, room.height - depth)


def plot_treemap(groups: Mapping[str, Sequence[int]], *, axes: Axes | None = None) -> Axes:
    """Draw the bytes of each group's members as areas: one tile per member, in an area per group, the largest on the left.

    Groups too small for their names are listed below.

    Examples
    --------
    >>> plot_treemap({"norms": [2304], "attention": [2**21, 2**20]}).get_label()
    'Treemap of 3.00 MiB: attention 3.00 MiB, 99.9 %; norms 0.00 MiB, 0.1 %.'
    """
    axes = new_axes(3.4) if axes is None else axes
    totals = dict(sorted(((name, sum(sizes)) for name, sizes in groups.items()), key=lambda row: -row[1]))
    whole = sum(totals.values())
    texts = {name: f"{size / MIB:.2f} MiB, {100 * size / max(1, whole):.1f} %" for name, size in totals.items()}
    width, height = inches_of(axes)
    tiles = squarify(list(totals.values()), Tile(0, 0, width, height))
    unnamed = []
    for place, (name, tile) in enumerate(zip(totals, tiles, strict=True)):
        _draw_group(axes, tile, groups[name], place)
        if not _name_group(axes, tile, f"{name}, {texts[name]}"):
            unnamed.append(f"{name} {texts[name]}")
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    note = "Areas are proportional to bytes." + (f" Too small to name: {'; '.join(unnamed)}" if unnamed else "")
    axes.text(0, -0.08, textwrap.fill(note, 78), ha="left", va="top", fontsize=9, parse_math=False)
    rows = "; ".join(f"{name} {text}" for name, text in texts.items())
    axes.set_label(f"Treemap of {whole / MIB:.2f} MiB: {rows or 'nothing'}.")
    return axes


def _draw_group(axes: Axes, tile: Tile, sizes: Sequence[int], place: int) -> None:
    """Draw a group's members as one collection, and the group's edge on top."""
    from matplotlib.collections import PolyCollection

    members = squarify(sorted(sizes, reverse=True), tile) if len(sizes) <= _MAX_TILES else [tile]
    colour = _COLOURS[place % len(_COLOURS)]
    corners = [member.corners for member in members if member.area > 0]
    axes.add_collection(PolyCollection(corners, facecolor=colour, edgecolor="white", linewidth=0.5))
    axes.add_collection(PolyCollection([tile.corners], facecolor="none", edgecolor="black", linewidth=1.5))


def _name_group(axes: Axes, tile: Tile, text: str) -> bool:
    """Write a group's name and share into it, one per line; return whether there is space."""
    lines = text.split(", ")
    if tile.width < _LETTER * max(map(len, lines)) or tile.height < 0.17 * len(lines):
        return False
    middle = tile.x + tile.width / 2, tile.y + tile.height / 2
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
    axes.text(*middle, "\n".join(lines), ha="center", va="center", fontsize=9, bbox=box, parse_math=False)
    return True
