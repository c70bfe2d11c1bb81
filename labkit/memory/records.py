"""What an estimate consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from labkit.records import Record
from labkit.units import format_bytes

__all__ = ["MemoryEstimate", "MemoryPart"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MemoryPart(Record):
    """One thing that takes memory.

    Attributes
    ----------
    name : str
        ``"weights"``, ``"repacked weights"``, ``"cache"``, ``"state"``, ``"compute"``, ``"output"``, ``"runtime"``.
    device : str
        ``"CPU"``, or the device that holds it.
    backing : str
        ``"file"`` (pages of the model's file: the system can take them back and read them again), ``"memory"`` (it
        cannot, short of swapping) or ``"device"``.
    reserved_bytes : int
        What is asked of the system.
    resident_bytes : int
        What is really there when the context is full.
    formula : str
        How the figure comes about, with its numbers.
    """

    name: str
    device: str
    backing: str
    reserved_bytes: int
    resident_bytes: int
    formula: str


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MemoryEstimate(Record):
    """What loading a model and filling its context takes.

    Attributes
    ----------
    file_size_bytes : int
        Of the file, all parts of a split model together.
    weights_bytes : int
        Weights in memory, wherever; mapped ones count as long as their pages are there.
    repack_bytes : int
        Weights that are there a second time, in the order that this CPU computes with.
    kv_cache_bytes, recurrent_state_bytes : int
        What the model keeps of the tokens it has seen.
    compute_buffer_bytes : int
        Intermediate results of one batch; reserved, and nearly all of it used when the context is full.
    output_buffer_bytes : int
        Rows of logits.
    runtime_bytes : int
        Python, the engine, the vocabulary, the graph and the room to convert activations.
    total_bytes : int
        Everything, at its peak: a load and a generation that fills the context.
    gpu_bytes, ram_bytes : int
        Of that, on devices and on the host.
    method : str
        ``"formula"``, ``"simulate"`` or ``"auto"``: what the figures come from.
    assumptions : tuple of str
        A sentence each.
    fits : bool
        Whether ``ram_bytes`` fit in the RAM that this process may use now.
    available_bytes : int
        That RAM, with what this process holds already.
    n_ctx, n_cells : int
        Tokens that the context holds; cells of a layer that looks at everything.
    layout : str
        What the layers keep, in words.
    parts : tuple of MemoryPart
        The same by part and device, each with its formula.
    """

    file_size_bytes: int
    weights_bytes: int
    repack_bytes: int
    kv_cache_bytes: int
    recurrent_state_bytes: int
    compute_buffer_bytes: int
    output_buffer_bytes: int
    runtime_bytes: int
    total_bytes: int
    gpu_bytes: int
    ram_bytes: int
    method: str
    assumptions: tuple[str, ...]
    fits: bool
    available_bytes: int
    n_ctx: int
    layout: str
    parts: tuple[MemoryPart, ...] = dataclasses.field(repr=False)

    @property
    def file_backed_bytes(self) -> int:
        """Resident pages of the model's file: the system can drop them, and reads them again when they are needed."""
        return sum(part.resident_bytes for part in self.parts if part.backing == "file")

    @property
    def verdict(self) -> str:
        """Whether it fits, in a sentence."""
        needs = f"needs {format_bytes(self.ram_bytes)} of RAM"
        if self.gpu_bytes:
            needs += f" and {format_bytes(self.gpu_bytes)} on devices"
        room = f"this process may use {format_bytes(self.available_bytes)}"
        if self.fits:
            return f"fits: {needs}, {room}"
        short = format_bytes(self.ram_bytes - self.available_bytes)
        if self.ram_bytes - self.file_backed_bytes <= self.available_bytes:
            return f"hardly fits: {needs}, {room}; the system would read {short} of the file again and again"
        return f"does not fit: {needs}, {room}: {short} are missing"

    def by_device(self) -> dict[str, int]:
        """Return resident bytes by device, the CPU first."""
        return total(self.parts)


def total(parts: Iterable[MemoryPart]) -> dict[str, int]:
    """Return resident bytes by device, in the order in which devices appear."""
    sums: dict[str, int] = {}
    for part in parts:
        sums[part.device] = sums.get(part.device, 0) + part.resident_bytes
    return sums
