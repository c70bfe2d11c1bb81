"""The bytes of one quantized block: which of them is the scale, and which weights each other byte holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.errors import ArgumentError
from labkit.plots.picture import MAIN, OTHER, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

_BYTES = 18
_SCALE, _LOWER, _UPPER = "#F0E442", "#CFE8F7", "#FBE3B0"  # light shades of Okabe and Ito's, for black text


def plot_q4_0_block(data: bytes, *, axes: Axes | None = None) -> Axes:
    """Draw the 18 bytes of a block of Q4_0: two of scale, and 16 with two weights each.

    The first row has the bytes of ``data`` in hexadecimal; the second the index and value q of the weight in each lower
    half, the third those in each upper half.

    Raises
    ------
    ArgumentError
        If there are not 18 bytes.
    """
    if len(data) != _BYTES:
        raise ArgumentError(f"a block of Q4_0 has {_BYTES} bytes, not {len(data)}")
    if axes is None:
        axes = new_figure(7, 2.5, layout="constrained").add_subplot()
    scale = float(np.frombuffer(bytes(data[:2]), "<f2")[0])
    _box(axes, 0, 3, f"{data[0]:02x}", _SCALE)
    _box(axes, 1, 3, f"{data[1]:02x}", _SCALE)
    axes.text(0, 4.25, f"scale {scale:.4f}".replace("-", "−"), ha="left", va="bottom", fontsize=9)
    for place, byte in enumerate(data[2:]):
        x = place + 2.4
        for half, (digit, colour) in enumerate(((byte >> 4, _UPPER), (byte & 15, _LOWER))):
            _box(axes, x + half / 2, 3, f"{digit:x}", colour, width=0.5)
        _box(axes, x, 1.5, f"w{place}\n{(byte & 15)}", _LOWER)
        _box(axes, x, 0, f"w{place + 16}\n{(byte >> 4)}", _UPPER)
    for x in (0.0, 1.0, *(place + 2.4 for place in range(16))):
        axes.add_patch(_rectangle(x, 3, 1, "none", linewidth=1.8))
    for y, text, colour in ((2.02, "q, lower half", MAIN), (0.52, "q, upper half", OTHER)):
        axes.text(2.2, y, text, ha="right", va="center", fontsize=9, color="black",
                  bbox={"edgecolor": colour, "facecolor": "white", "pad": 2})  # fmt: skip
    axes.text(18.4, 4.25, "18 bytes, 32 weights: weight = scale × (q − 8)", ha="right", va="bottom", fontsize=9)
    axes.set(xlim=(-0.4, 18.5), ylim=(-0.1, 4.9))
    axes.set_axis_off()
    lower, upper = (" ".join(str(byte >> shift & 15) for byte in data[2:]) for shift in (0, 4))
    axes.set_label(
        f"The 18 bytes of a block of Q4_0. {data[0]:02x} {data[1]:02x} are the scale, {scale:.4f}. The 16 others, "
        f"{bytes(data[2:]).hex(' ')}, hold the q of two weights each: in their lower halves weights 0 to 15, {lower}; in "
        f"their upper halves weights 16 to 31, {upper}."
    )
    return axes


def _rectangle(x: float, y: float, width: float, colour: str, *, linewidth: float) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, 1.05, facecolor=colour, edgecolor="black", linewidth=linewidth)


def _box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 1.0) -> None:
    axes.add_patch(_rectangle(x, y, width, colour, linewidth=0.6))
    axes.text(x + width / 2, y + 0.52, text, ha="center", va="center", fontsize=9, family="monospace")
