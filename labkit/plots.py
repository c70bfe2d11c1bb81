"""A record -> matplotlib Axes, and the picture that a notebook shows of them, with a text for those who do not see it.

Every ``plot_…`` draws into an Axes, its own or one that is given, names both axes with their units, tells bars apart by
more than colour, and sets the Axes' label to what the picture says in words. `Picture` turns the Axes into HTML with that
text beside it; a bare figure would have none in JupyterLab.
"""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

from labkit.metadata import ModelInfo

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes

__all__ = ["Picture", "plot_bytes"]

_MAIN = "#0072B2"  # blue and orange of Okabe and Ito: apart for every kind of colour vision, and in grey
_OTHER = "#E69F00"
_MIB = 2**20


class Picture:
    """An Axes' figure as HTML with an alternative text: the last line of a cell shows it.

    Parameters
    ----------
    axes : Axes
        As a ``plot_…`` function returns them; their label becomes the text.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes

    @property
    def text(self) -> str:
        """What the picture says, in words."""
        return str(self.axes.get_label())

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self.axes.figure.canvas.print_figure(buffer, format="png", dpi=144)
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
