"""The bytes of a file by tensor type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit.plots.picture import MAIN, MIB, OTHER, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_bytes(info: Any, *, axes: Axes | None = None) -> Axes:
    """Draw a file's bytes: a bar for each tensor type, and one for the header.

    Parameters
    ----------
    info : ModelInfo
        As `get_model_info` returns it.
    axes : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Bars in MiB, the longest first. The header's bar, hatched, is last; it includes the padding between tensors.

    Examples
    --------
    >>> from labkit import get_model_info
    >>> plot_bytes(get_model_info()).get_label()[:59]
    'Bar chart of the bytes in a file of 93.8 MiB. Q4_1, 210 ten'
    """
    parts = _bytes_by_part(info)
    axes = new_axes(0.8 + 0.45 * len(parts)) if axes is None else axes
    quantity = [f"{n_bytes / MIB:.2f} MiB, {100 * n_bytes / info.file_size_bytes:.1f} %" for n_bytes in parts.values()]
    last = len(parts) - 1
    bars = axes.barh(
        list(parts),
        [n_bytes / MIB for n_bytes in parts.values()],
        color=[MAIN] * last + [OTHER],
        hatch=[""] * last + ["//"],
        edgecolor="white",
    )
    axes.bar_label(bars, labels=quantity, padding=4)
    axes.margins(x=0.45)
    axes.invert_yaxis()
    axes.set_xlabel("size (MiB)")
    axes.set_ylabel("part of the file")
    axes.spines[["top", "right"]].set_visible(False)
    rows = "; ".join(f"{part}: {text}" for part, text in zip(parts, quantity, strict=True))
    axes.set_label(f"Bar chart of the bytes in a file of {info.file_size_bytes / MIB:.1f} MiB. {rows}.")
    return axes


def _bytes_by_part(info: Any) -> dict[str, int]:
    """Return the bytes of each tensor type, and of everything else."""
    parts = {}
    for name, (count, n_bytes) in info.tensor_types.items():
        parts[f"{name}, {count:,} tensor{'' if count == 1 else 's'}"] = n_bytes
    return {**parts, "header": info.file_size_bytes - info.weights_bytes}
