"""Memory explorer: what a model takes of the RAM, part by part, as its context, its cache and its batches change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets

from labkit.errors import LabkitError
from labkit.gguf_file import Header
from labkit.kv_cache.size import CACHE_TYPES, CELLS
from labkit.memory import MemoryEstimate
from labkit.memory.estimate import check_int
from labkit.plots.memory import plot_fit
from labkit.plots.picture import MIB, canvas
from labkit.system import available_ram_bytes, resident_bytes
from labkit.tables import Table
from labkit.widgets.explorer import Values, slider
from labkit.widgets.file_explorer import FileExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.controls import dropdown
from labkit.widgets.parts.view import View
from labkit.widgets.parts.what_fits import RAM, by_place, estimate_from_header, longest_context, trained_context

if TYPE_CHECKING:
    from labkit.engine import Model

__all__ = ["MemoryExplorer", "context_slider", "describe", "mib_box", "settings_of"]

_FLASH = (("labkit's choice", "auto"), ("on", True), ("off", False))
_TYPES = [(name.upper(), name) for name in CACHE_TYPES]
_LOOK = {"style": {"description_width": "initial"}, "layout": {"width": "100%", "max_width": "36em"}}


def settings_of(values: Values) -> dict[str, Any]:
    """Return what the controls say as arguments of `foretell`: all but the context and the RAM."""
    return {name: value for name, value in values.items() if name not in ("n_ctx", "ram_mib")}


def describe(estimate: MemoryEstimate, n_ctx: int, longest: int | None = None) -> str:
    """Say whether it fits, and what takes most.

    Parameters
    ----------
    estimate : MemoryEstimate
    n_ctx : int
        The context that was asked for.
    longest : int, optional
        The longest context that fits, 0 for none; None where it was not looked for.
    """
    said = estimate.verdict[:1].upper() + estimate.verdict[1:]
    if longest is not None:
        fits = f"the longest context that fits is {longest:,} tokens"
        said += f"; {fits}" if longest else f"; not even a context of {CELLS} tokens fits"
    largest = max(estimate.parts, key=lambda part: part.resident_bytes)
    said += f". Most of it: {largest.name}, {largest.resident_bytes / estimate.total_bytes:.0%}."
    rounded = f" The context of {n_ctx:,} tokens is rounded up to {estimate.n_ctx:,}."
    return said + (rounded if n_ctx != estimate.n_ctx else "")


def context_slider(header: Header | None, n_ctx: int) -> Any:
    """Return a slider from 256 tokens, in steps that the engine rounds to, up to what the model was trained on."""
    check_int("n_ctx", n_ctx, 0)
    trained = trained_context(header) if header is not None else n_ctx
    step = CELLS * max(1, trained // (512 * CELLS))  # 512 steps at most
    return slider("Context (tokens)", n_ctx or trained, step, max(trained, n_ctx, step), step)


def mib_box(label: str, n_bytes: int) -> Any:
    """Return a box for an amount of memory in MiB."""
    return ipywidgets.BoundedIntText(description=label, value=max(1, n_bytes // MIB), min=1, max=2**30, **_LOOK)


class MemoryExplorer(FileExplorer):
    """What a model takes of the RAM: weights, cache, compute buffer and the rest, foretold from its header alone.

    Parameters
    ----------
    model : Model, Path or str, optional
        A loaded model, or a file or a name.
    n_ctx : int
        Tokens of context at first; 0 is what the model was trained on.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an ``n_ctx`` that is no such number.
    """

    title: ClassVar[str] = "Memory explorer"

    def __init__(self, model: Model | Path | str | None = None, *, n_ctx: int = 2048) -> None:
        self.use_file(model)
        header, is_mapped = None, True
        try:
            header = self.header()
            is_mapped = any(part.backing == "file" for part in estimate_from_header(header, n_ctx).parts)
        except LabkitError:  # `compute` meets it again, and the explorer shows it
            pass
        super().__init__(
            {
                "n_ctx": context_slider(header, n_ctx),
                "type_k": dropdown("Type of the cache's keys", _TYPES, "f16"),
                "type_v": dropdown("Type of the cache's values", _TYPES, "f16"),
                "flash_attn": dropdown("Flash attention", _FLASH, "auto"),
                "n_batch": slider("Tokens a call, n_batch", 512, 32, 2048, 32),
                "n_ubatch": slider("Tokens a computation, n_ubatch", 512, 32, 2048, 32),
                "n_seq": slider("Sequences at once", 1, 1, 16, 1),
                "use_mmap": ipywidgets.Checkbox(
                    description="Map the file rather than read it (mmap)", value=is_mapped, indent=False
                ),
                "ram_mib": mib_box("RAM to reckon with (MiB)", available_ram_bytes() + resident_bytes()),
            }
        )

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Estimate by formula, and look for the longest context where this one does not fit."""
        settings, ram = settings_of(values), values["ram_mib"] * MIB
        estimate = estimate_from_header(self.header(), values["n_ctx"], ram_bytes=ram, **settings)
        longest = None if estimate.fits else longest_context(self.header(), ram, **settings)
        axes = canvas(1.75, left=0.1, bottom_inches=0.95)
        plot_fit(by_place(estimate), {RAM: ram}, axes=axes)
        return View(describe(estimate, values["n_ctx"], longest), axes, [_table(estimate)])


def _table(estimate: MemoryEstimate) -> Table:
    rows = [(part.name, f"{part.resident_bytes / MIB:,.1f}", part.formula) for part in estimate.parts]
    rows.append(("all", f"{estimate.total_bytes / MIB:,.1f}", f"when the context of {estimate.n_ctx:,} tokens is full"))
    return Table("Memory by part", ("part", "size (MiB)", "how it comes about"), rows)
