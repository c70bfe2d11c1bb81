"""A picture with alt text for notebooks; colours and figures that all plots share."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

from labkit.extras import needs_extra

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Drawn = Axes | Figure

MAIN = "#0072B2"  # blue and orange of Okabe and Ito: distinct for all types of colour vision, and in grey
OTHER = "#E69F00"
MIB = 2**20
# In JupyterLab's dark theme, black on white becomes white on black, and hues stay.
_DARK = (
    "<style>@media screen{[data-jp-theme-light=false] .labkit-picture"
    "{filter:invert(.95) hue-rotate(180deg) brightness(1.2)}}</style>"
)


class Picture:
    """A figure as HTML with alt text, shown as the last line of a cell.

    Parameters
    ----------
    drawn : Axes or Figure
        As a ``plot_…`` function returns it; its label becomes the alt text.
    dpi : int
        Dots per inch; 144 is also sharp in print.
    """

    def __init__(self, drawn: Drawn, *, dpi: int = 144) -> None:
        self.drawn, self._dpi = drawn, dpi

    @property
    def text(self) -> str:
        """The alt text."""
        return str(self.drawn.get_label())

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self.drawn.figure.canvas.print_figure(buffer, format="png", dpi=self._dpi)
        picture = base64.b64encode(_with_palette(buffer)).decode("ascii")
        alt = html.escape(self.text, quote=True)
        style = 'class="labkit-picture" style="width:40em;max-width:100%"'
        return f'{_DARK}<img alt="{alt}" src="data:image/png;base64,{picture}" {style}>'


def _with_palette(png: io.BytesIO) -> bytes:
    """Return a picture with at most 64 colours: a plot looks the same in less than half the bytes."""
    from PIL import Image  # with matplotlib

    small = io.BytesIO()
    Image.open(png).convert("RGB").quantize(64).save(small, "png", optimize=True)
    return small.getvalue()


def new_figure(width_inches: float, height_inches: float, **options: Any) -> Figure:
    """Return a new figure outside pyplot, which would keep it and show it twice."""
    with needs_extra():
        from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), **options)


def new_axes(height_inches: float) -> Axes:
    """Return the Axes of a new figure: narrow, so that its text is as large as the notebook's."""
    return _open(new_figure(6.5, height_inches, layout="constrained").add_subplot())


def inches_of(axes: Axes) -> tuple[float, float]:
    """Return the width and height of Axes without drawing them."""
    return axes.bbox.width / axes.figure.dpi, axes.bbox.height / axes.figure.dpi


def canvas(height_inches: float, *, left: float = 0.12, right: float = 0.97, bottom_inches: float = 0.55) -> Axes:
    """Return Axes for a live picture, with fixed margins: computing them doubles matplotlib's time.

    The figure is narrow, so that its text stays readable on a phone. ``left`` and ``right`` are the ends of the Axes as
    fractions of its width.
    """
    figure = new_figure(6, height_inches)
    figure.subplots_adjust(left=left, right=right, bottom=bottom_inches / height_inches, top=1 - 0.15 / height_inches)
    return _open(figure.add_subplot())


def _open(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    return axes
