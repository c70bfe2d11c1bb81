"""Memory explorer: the RAM that a model needs, by part, for any context, cache type and batch size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets

from labkit.checks import check_int
from labkit.errors import LabkitError
from labkit.gguf_file import Header
from labkit.kv_cache import CACHE_TYPES, CELLS
from labkit.memory import MemoryEstimate
from labkit.plots.memory import plot_fit
from labkit.plots.picture import MIB, canvas
from labkit.system import available_ram_bytes, resident_bytes
from labkit.tables import Table
from labkit.widgets.explorer import Values
from labkit.widgets.file_explorer import FileExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.controls import dropdown, slider
from labkit.widgets.parts.view import View
from labkit.widgets.parts.what_fits import RAM, by_place, estimate_from_header, longest_context, trained_context

if TYPE_CHECKING:
    from labkit.engine import Model

_FLASH = (("auto", "auto"), ("on", True), ("off", False))
_TYPES = [(name.upper(), name) for name in CACHE_TYPES]


def settings_of(values: Values) -> dict[str, Any]:
    """Return the controls' values as arguments of `estimate_from_header`, except context and RAM."""
    return {name: value for name, value in values.items() if name not in ("n_ctx", "ram_mib")}


def describe(estimate: MemoryEstimate, n_ctx: int, longest: int | None = None) -> str:
    """Describe whether it fits, and the largest part; ``longest`` is the longest context that fits, None if not computed."""
    text = estimate.verdict[:1].upper() + estimate.verdict[1:]
    if longest is not None:
        fits = f"the longest context that fits is {longest:,} tokens"
        text += f"; {fits}" if longest else f"; not even a context of {CELLS} tokens fits"
    largest = max(estimate.parts, key=lambda part: part.resident_bytes)
    text += f". Largest part: {largest.name}, {100 * largest.resident_bytes / estimate.total_bytes:.0f} %."
    rounded = f" The context of {n_ctx:,} tokens is rounded up to {estimate.n_ctx:,}."
    return text + (rounded if n_ctx != estimate.n_ctx else "")


def context_slider(header: Header | None, n_ctx: int) -> Any:
    """Return a slider up to the trained context, in steps that the engine rounds to."""
    check_int("n_ctx", n_ctx, 0, 2**31 - 1)
    trained = trained_context(header) if header is not None else n_ctx
    step = CELLS * max(1, trained // (512 * CELLS))  # 512 steps at most
    return slider("Context (tokens)", n_ctx or trained, step, max(trained, n_ctx, step), step)


def mib_box(label: str, n_bytes: int) -> Any:
    """Return a box for an amount of memory in MiB."""
    return ipywidgets.BoundedIntText(description=label, value=max(1, n_bytes // MIB), min=1, max=2**30)


class MemoryExplorer(FileExplorer):
    """The RAM that a model needs: weights, cache, compute buffer and the rest, estimated from its header alone.

    ``n_ctx`` is the initial context in tokens; 0 is the trained one.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an invalid ``n_ctx``.
    """

    title: ClassVar[str] = "Memory explorer"

    def __init__(self, model: Model | Path | str | None = None, *, n_ctx: int = 2048) -> None:
        self.use_file(model)
        header, is_mapped = None, True
        try:
            header = self.header()
            is_mapped = any(part.backing == "file" for part in estimate_from_header(header, n_ctx).parts)
        except LabkitError:  # `compute` raises it again, and the explorer shows it
            pass
        super().__init__(
            {
                "n_ctx": context_slider(header, n_ctx),
                "type_k": dropdown("K cache type", _TYPES, "f16"),
                "type_v": dropdown("V cache type", _TYPES, "f16"),
                "flash_attn": dropdown("Flash attention", _FLASH, "auto"),
                "n_batch": slider("Batch size (n_batch)", 512, 32, 2048, 32),
                "n_ubatch": slider("Micro-batch size (n_ubatch)", 512, 32, 2048, 32),
                "n_seq": slider("Parallel sequences", 1, 1, 16, 1),
                "use_mmap": ipywidgets.Checkbox(description="Memory-map the file (mmap)", value=is_mapped, indent=False),
                "ram_mib": mib_box("RAM available (MiB)", available_ram_bytes() + resident_bytes()),
            }
        )

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Estimate by formula; if it does not fit, find the longest context that does."""
        settings, ram = settings_of(values), values["ram_mib"] * MIB
        estimate = estimate_from_header(self.header(), values["n_ctx"], ram_bytes=ram, **settings)
        longest = None if estimate.fits else longest_context(self.header(), ram, **settings)
        axes = canvas(1.75, left=0.1, bottom_inches=0.95)
        plot_fit(by_place(estimate), {RAM: ram}, axes=axes)
        return View(describe(estimate, values["n_ctx"], longest), axes, [_table(estimate)])


def _table(estimate: MemoryEstimate) -> Table:
    rows = [(part.name, f"{part.resident_bytes / MIB:,.1f}", part.formula) for part in estimate.parts]
    rows.append(("total", f"{estimate.total_bytes / MIB:,.1f}", f"with a full context of {estimate.n_ctx:,} tokens"))
    return Table("Memory by part", ("part", "size (MiB)", "formula"), rows)
