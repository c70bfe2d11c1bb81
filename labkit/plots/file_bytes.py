"""The bytes of a file, by tensor type or by part of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.plots.picture import MAIN, MIB, OTHER, new_axes
from labkit.units import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_bytes(info: Any, *, axes: Axes | None = None) -> Axes:
    """Draw a file's bytes in MiB: a bar for each tensor type, the longest first, and a hatched one for the header.

    ``info`` is a `ModelInfo`. The header includes the padding between tensors.

    Examples
    --------
    >>> from labkit import get_model_info
    >>> plot_bytes(get_model_info()).get_label()[:59]
    'Bar chart of the bytes in a file of 93.8 MiB. Q4_1, 210 ten'
    """
    parts = {_label(name, count): n_bytes for name, (count, n_bytes) in info.tensor_types.items()}
    parts["header"] = info.file_size_bytes - info.weights_bytes
    axes = new_axes(0.8 + 0.45 * len(parts)) if axes is None else axes
    rows = _draw(axes, parts, hatched="header")
    axes.set_label(f"Bar chart of the bytes in a file of {info.file_size_bytes / MIB:.1f} MiB. {rows}.")
    return axes


def plot_groups(groups: Mapping[str, Sequence[int]], *, axes: Axes) -> Axes:
    """Draw the bytes of groups of tensors, the longest bar first; each group has the size of each of its tensors."""
    totals = sorted(groups.items(), key=lambda row: -sum(row[1]))
    parts = {_label(name, len(sizes)): sum(sizes) for name, sizes in totals}
    rows = _draw(axes, parts)
    axes.margins(x=0.6)  # an explorer's picture is narrow
    axes.set_label(f"Bar chart of {sum(parts.values()) / MIB:.2f} MiB of tensors. {rows or 'None'}.")
    return axes


def _label(name: str, count: int) -> str:
    return f"{name}, {counted(count, 'tensor')}"


def _draw(axes: Axes, parts: Mapping[str, int], hatched: str = "") -> str:
    """Draw a bar for each part; return the names and sizes as text."""
    whole = max(1, sum(parts.values()))
    sizes = [f"{n_bytes / MIB:.2f} MiB, {100 * n_bytes / whole:.1f} %" for n_bytes in parts.values()]
    bars = axes.barh(
        list(parts),
        [n_bytes / MIB for n_bytes in parts.values()],
        color=[OTHER if name == hatched else MAIN for name in parts],
        hatch=["//" if name == hatched else "" for name in parts],
        edgecolor="white",
    )
    axes.bar_label(bars, labels=sizes, padding=4)
    axes.margins(x=0.45)
    axes.invert_yaxis()
    axes.set_xlabel("size (MiB)")
    axes.set_ylabel("part of the file")
    return "; ".join(f"{part}: {text}" for part, text in zip(parts, sizes, strict=True))
