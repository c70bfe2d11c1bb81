"""Draw records into matplotlib Axes, and show them in a notebook as a picture with alt text.

Every ``plot_…`` returns the Axes that it drew, new ones or those given as ``axes``, or a Figure of several panels. It labels
all axes with units, uses more than colour to distinguish things, and sets the label of the Axes or Figure to a description
of the picture. `Picture` turns it into HTML with this description as alt text; a plain matplotlib figure has none in
JupyterLab.
"""

from labkit.plots.block import plot_q4_0_block
from labkit.plots.file_bytes import plot_bytes
from labkit.plots.generation import plot_cache_growth, plot_generation
from labkit.plots.layers import plot_experts, plot_layers, plot_offload
from labkit.plots.memory import plot_memory
from labkit.plots.picture import Picture
from labkit.plots.quality import plot_tradeoff
from labkit.plots.roofline import plot_roofline
from labkit.plots.sampling import plot_next_token
from labkit.plots.schedule import plot_schedule
from labkit.plots.speed import plot_benchmark, plot_milestone
from labkit.plots.threads import plot_threads

__all__ = [
    "Picture",
    "plot_benchmark",
    "plot_bytes",
    "plot_cache_growth",
    "plot_experts",
    "plot_generation",
    "plot_layers",
    "plot_memory",
    "plot_milestone",
    "plot_next_token",
    "plot_offload",
    "plot_q4_0_block",
    "plot_roofline",
    "plot_schedule",
    "plot_threads",
    "plot_tradeoff",
]
