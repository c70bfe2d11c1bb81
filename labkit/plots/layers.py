"""Where a model's layers are, and which experts of a mixture a token uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from labkit.plots.picture import MAIN, OTHER, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = (("#BBBBBB", ""), (MAIN, "//"), (OTHER, "\\\\"), ("#009E73", ".."))


def plot_layers(devices: Sequence[str], *, experts: Sequence[str] = (), axes: Axes | None = None) -> Axes:
    """Draw the device of each layer as a row of boxes, from the embedding table to the output.

    Each device has a colour and a hatch.

    Parameters
    ----------
    devices : sequence of str
        The device's name for each layer, and for the output last.
    experts : sequence of str, optional
        The device of each layer's experts, drawn as a second row.

    Examples
    --------
    >>> plot_layers(["CPU", "GPU", "GPU"]).get_label()
    'Boxes. The embedding table: CPU. Layers: 0 CPU, 1 GPU. Output: GPU.'
    """
    axes = new_axes(2.4 if experts else 1.8) if axes is None else axes
    n_layers = len(devices) - 1
    names = list(dict.fromkeys(["CPU", *devices, *experts]))
    rows = [(1 if experts else 0, -1, ["CPU", *devices])] + ([(0, 0, experts)] if experts else [])
    for height, start, row in rows:
        for index, name in enumerate(row, start):
            colour, hatch = _STYLES[names.index(name) % len(_STYLES)]
            axes.bar(index, 0.8, bottom=height, width=0.85, color=colour, hatch=hatch, edgecolor="white", label=name)
    step = max(1, round(n_layers / 10))
    numbered = range(step if step > 1 else 0, n_layers - step // 2, step)
    axes.set_xticks([-1, *numbered, n_layers], ["table", *map(str, numbered), "output"])
    axes.set_yticks([0.4, 1.4][: len(rows)], ["experts", "the rest"] if experts else [""])
    axes.set_xlabel("layer")
    axes.set_ylim(0, len(rows))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    text = f"Boxes. The embedding table: CPU. Layers: {_ranges(devices[:-1])}. Output: {devices[-1]}."
    axes.set_label(text + (f" Experts of the layers: {_ranges(experts)}." if experts else ""))
    return axes


def _ranges(names: Sequence[str]) -> str:
    found, first = [], 0
    for name, group in groupby(names):
        last = first + len(list(group)) - 1
        found.append(f"{first} {name}" if first == last else f"{first} to {last} {name}")
        first = last + 1
    return ", ".join(found)


def plot_experts(chosen: Sequence[Sequence[int]], n_experts: int, *, axes: Axes | None = None) -> Axes:
    """Draw a token's way through a mixture of experts: a row of boxes per layer, the chosen experts filled.

    Parameters
    ----------
    chosen : sequence of sequences of int
        The experts that a token uses in each layer, by number from 0.
    n_experts : int
        Experts in each layer.
    """
    axes = new_axes(0.9 + 0.45 * len(chosen)) if axes is None else axes
    for layer, experts in enumerate(chosen):
        for number in range(n_experts):
            is_used = number in experts
            axes.bar(number, 0.75, bottom=layer - 0.375, width=0.8, color=MAIN if is_used else "white", edgecolor="0.5",
                     hatch="//" if is_used else "")  # fmt: skip
    axes.set_yticks(range(len(chosen)), [f"layer {layer}" for layer in range(len(chosen))])
    axes.invert_yaxis()
    axes.set_xlabel("expert (filled: read for this token)")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    used = "; ".join(f"layer {layer}: {', '.join(map(str, sorted(experts)))}" for layer, experts in enumerate(chosen))
    axes.set_label(f"Rows of {n_experts} boxes, one per expert; a token uses a few in each layer. {used}.")
    return axes


def plot_offload(measured: Mapping[int, float], *, machine: str, axes: Axes | None = None) -> Axes:
    """Draw decode speed by number of layers on a GPU, and what the first and the last of them predict for the others.

    The axis of the speed is logarithmic.

    Parameters
    ----------
    measured : mapping
        Layers on the GPU, the output included -> tokens per second; the first entry is none, the last one all.
    machine : str
        What it was measured on.

    Notes
    -----
    The time per token is a sum over the layers: those on the CPU and those on the GPU.
    """
    axes = new_axes(3.2) if axes is None else axes
    n_layers = max(measured)
    slow, fast = 1 / measured[0], 1 / measured[n_layers]
    predicted = [1 / (slow + (fast - slow) * n / n_layers) for n in range(n_layers + 1)]
    axes.plot(range(n_layers + 1), predicted, "--", color=OTHER, label="predicted from the first and the last")
    axes.plot(list(measured), list(measured.values()), "o", color=MAIN, label=f"measured: {machine}")
    for n, speed in measured.items():
        axes.annotate(f"{speed:.0f}", (n, speed), (0, 8), textcoords="offset points", ha="center")
    axes.set_yscale("log")
    low, high = 0.8 * min(measured.values()), 2.5 * max(measured.values())
    marks = [first * 10**power for power in range(-1, 5) for first in (1, 2, 5) if low < first * 10**power < high]
    axes.set_yticks(marks, [f"{mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.set_ylim(low, high)
    axes.set_xlabel("layers on the GPU")
    axes.set_ylabel("decode (tokens/s)")
    axes.legend(frameon=False, loc="upper left")
    figures = ", ".join(f"{n} layers {speed:g}" for n, speed in measured.items())
    axes.set_label(f"Line chart of decode speed over layers on a GPU, {machine}, tokens/s: {figures}.")
    return axes
