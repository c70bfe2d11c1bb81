"""A model's memory by device and part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.plots.picture import MIB, inches_of, new_axes
from labkit.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Part -> colour (of Okabe and Ito) and hatch, in the order of the legend.
_PARTS = {
    "weights": ("#0072B2", ""),
    "repacked weights": ("#56B4E9", "//"),
    "cache": ("#E69F00", ""),
    "state": ("#F0E442", "\\\\"),
    "compute": ("#009E73", ".."),
    "output": ("#CC79A7", "xx"),
    "runtime": ("#999999", "--"),
}


def plot_memory(estimates: Any, *, ram_bytes: int | None = None, axes: Axes | None = None) -> Axes:
    """Draw the memory that models need, a stacked bar for each device, and the available RAM.

    The bars are in MiB, when the context is full.

    Parameters
    ----------
    estimates : MemoryEstimate or mapping
        As `estimate_memory_usage` returns it; or several, by name.
    ram_bytes : int, optional
        RAM, drawn as a line; by default the estimate's ``available_bytes``, if at most three times the longest bar.

    Examples
    --------
    >>> from labkit import estimate_memory_usage
    >>> plot_memory(estimate_memory_usage(method="formula")).get_label()[:38]
    'Bar chart of memory at its peak. CPU: '
    """
    named = {"": estimates} if hasattr(estimates, "by_device") else dict(estimates)  # an estimate is a mapping too
    bars = [
        (f"{name} on {device}" if name and len(estimate.by_device()) > 1 else name or device, device, estimate)
        for name, estimate in named.items()
        for device in estimate.by_device()
    ]
    axes = new_axes(1.5 + 0.55 * len(bars)) if axes is None else axes
    texts = []
    for row, (label, device, estimate) in enumerate(bars):
        parts = {part.name: part.resident_bytes for part in estimate.parts if part.device == device}
        total = _stack(axes, row, parts) / MIB
        axes.text(total, row, f" {total:,.0f} MiB", va="center")
        texts.append(f"{label}: {total:.1f} MiB ({_listed(parts)})")
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    limit = _draw_ram(axes, bars, ram_bytes)
    _add_legend(axes, {part.name for _, _, estimate in bars for part in estimate.parts})
    axes.set_xlabel("memory when the context is full (MiB)")
    axes.set_ylabel("device" if len(named) == 1 else "")
    axes.set_label(f"Bar chart of memory at its peak. {'; '.join(texts)}.{limit}")
    return axes


def plot_fit(
    estimated: Mapping[str, Mapping[str, int]],
    capacities: Mapping[str, int],
    *,
    reported: Mapping[str, Mapping[str, int]] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw the memory that a model needs in each place next to its capacity, and below it what the engine reported.

    Sizes are bytes by place (``"RAM"``) and part (``"weights"``, ``"cache"``, …); every place of ``capacities`` has a bar in
    MiB. Reported ones are outlined; a capacity is a line if it is at most three times the longest bar.
    """
    named = [("", estimated)] if reported is None else [("estimated", estimated), ("reported", reported)]
    bars = [(place, kind, sizes.get(place, {})) for place in capacities for kind, sizes in named]
    axes = new_axes(1.5 + 0.55 * len(bars)) if axes is None else axes
    longest = max(sum(parts.values()) for _, _, parts in bars) or MIB
    limits = {place: size if size <= 3 * longest else 0 for place, size in capacities.items()}
    texts = []
    for row, (place, kind, parts) in enumerate(bars):
        total = _stack(axes, row, parts, is_outlined=kind == "reported")
        if limits[place]:
            axes.plot([limits[place] / MIB] * 2, [row - 0.46, row + 0.46], color="black", linewidth=2.5)
        of = f" of {format_bytes(capacities[place])}" if kind != "reported" else ""
        axes.text(max(total, limits[place]) / MIB, row, f"  {total / MIB:,.0f} MiB{of}", va="center")
        texts.append(f"{place} {kind}".rstrip() + f": {total / MIB:.1f} MiB{of}" + (f" ({_listed(parts)})" if parts else ""))
    axes.set_yticks(range(len(bars)), [f"{place},\n{kind}".rstrip(",\n") for place, kind, _ in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1.5 * max(longest, *limits.values(), 0) / MIB)
    _add_legend(axes, {name for _, _, parts in bars for name in parts}, below_inches=0.42)
    line = "; vertical line: capacity" if any(limits.values()) else ""
    axes.set_xlabel(f"memory when the context is full (MiB){line}")
    axes.set_label(f"Bar chart of memory at its peak. {'; '.join(texts)}.")
    return axes


def _stack(axes: Axes, row: int, parts: Mapping[str, int], *, is_outlined: bool = False) -> int:
    """Draw a stacked bar; return its length in bytes."""
    left = 0
    for name, size in parts.items():
        colour, hatch = _PARTS[name]
        edge, width = ("black", 0.5) if is_outlined else ("white", 0.7)
        axes.barh(row, size / MIB, width, left=left / MIB, color=colour, hatch=hatch, edgecolor=edge)
        left += size
    return left


def _listed(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size / MIB:.1f}" for name, size in parts.items())


def _draw_ram(axes: Axes, bars: Sequence[tuple[str, str, Any]], ram_bytes: int | None) -> str:
    """Draw the RAM as a line, if it is given or near the bars; return a sentence for the alt text."""
    longest = max(estimate.by_device()[device] for _, device, estimate in bars)
    ram = bars[0][2].available_bytes if ram_bytes is None else ram_bytes
    if ram_bytes is None and ram > 3 * longest:
        return ""
    axes.axvline(ram / MIB, color="black", linestyle="--")
    axes.annotate(
        f"RAM: {ram / MIB:,.0f} MiB ", (ram / MIB, 1.0), xycoords=("data", "axes fraction"), ha="right", va="bottom"
    )
    return f" RAM: {ram / MIB:.0f} MiB."


def _add_legend(axes: Axes, names: set[str], *, below_inches: float = 0.48) -> None:
    """Add a legend ``below_inches`` below the axes."""
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=name)
        for name, (colour, hatch) in _PARTS.items()
        if name in names
    ]
    below = below_inches / inches_of(axes)[1]
    narrow = {"ncols": 5, "columnspacing": 1.2, "handlelength": 1.5}
    axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.45, -below), frameon=False, **narrow)
