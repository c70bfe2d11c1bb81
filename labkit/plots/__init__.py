"""A record -> matplotlib Axes, and the picture that a notebook shows of them, with a text for those who do not see it.

Every ``plot_…`` draws into an Axes, its own or one that is given, or makes a Figure of several panels. It names all axes
with their units, tells things apart by more than colour, and sets the label of what it returns to what the picture says in
words. `Picture` turns that into HTML with the text beside it; a bare figure would have none in JupyterLab.
"""

from __future__ import annotations

from labkit.plots.files import plot_bytes
from labkit.plots.memory import plot_memory
from labkit.plots.picture import Picture
from labkit.plots.quality import plot_tradeoff
from labkit.plots.sampling import plot_next_token
from labkit.plots.speed import plot_benchmark, plot_milestone
from labkit.plots.threads import plot_threads

__all__ = [
    "Picture",
    "plot_benchmark",
    "plot_bytes",
    "plot_memory",
    "plot_milestone",
    "plot_next_token",
    "plot_threads",
    "plot_tradeoff",
]
