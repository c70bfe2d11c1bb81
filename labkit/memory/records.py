"""Records of a memory estimate."""

from __future__ import annotations

import dataclasses

from labkit.records import Record
from labkit.units import format_bytes


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MemoryPart(Record):
    """One part of the memory.

    Attributes
    ----------
    name : str
        ``"weights"``, ``"repacked weights"``, ``"cache"``, ``"state"``, ``"compute"``, ``"output"``, ``"runtime"``.
    device : str
        ``"CPU"``, or the device that holds it.
    backing : str
        ``"file"`` (pages of the model's file: the system can drop them and read them again), ``"memory"`` (it can only
        swap them out) or ``"device"``.
    reserved_bytes : int
        Requested from the system.
    resident_bytes : int
        Resident when the context is full.
    formula : str
        The calculation, with its numbers.
    """

    name: str
    device: str
    backing: str
    reserved_bytes: int
    resident_bytes: int
    formula: str


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MemoryEstimate(Record):
    """Memory needed to load a model and fill its context.

    Attributes
    ----------
    file_size_bytes : int
        Size of the file, all parts of a split model together.
    weights_bytes : int
        Weights on all devices; mapped weights count while their pages are resident.
    repack_bytes : int
        Weights held twice: the second copy, repacked for this CPU's instructions.
    kv_cache_bytes, recurrent_state_bytes : int
        Keys and values of past tokens; the state of recurrent layers.
    compute_buffer_bytes : int
        Intermediate results of one batch: the reserved size, nearly all used when the context is full.
    output_buffer_bytes : int
        Rows of logits.
    runtime_bytes : int
        Python, llama.cpp, the vocabulary, the graph and the buffer to convert activations.
    total_bytes : int
        Peak of a load and a generation that fills the context.
    gpu_bytes, ram_bytes : int
        The shares of that on devices and on the host.
    method : str
        ``"formula"``, ``"simulate"`` or ``"auto"``: the source of the figures.
    assumptions : tuple of str
        One sentence each.
    fits : bool
        Whether ``ram_bytes`` fits in the RAM that this process may use now.
    available_bytes : int
        That RAM, including what this process already holds.
    n_ctx, n_cells : int
        Context size in tokens; cells of a layer with full attention.
    layout : str
        Description of what the layers cache.
    parts : tuple of MemoryPart
        Parts of the total, by kind and device, each with its formula.
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
        """Resident pages of the model's file; the system can drop them and read them again when needed."""
        return sum(part.resident_bytes for part in self.parts if part.backing == "file")

    @property
    def verdict(self) -> str:
        """One sentence: whether it fits."""
        needs = f"needs {format_bytes(self.ram_bytes)} of RAM"
        if self.gpu_bytes:
            needs += f" and {format_bytes(self.gpu_bytes)} on devices"
        room = f"this process may use {format_bytes(self.available_bytes)}"
        if self.fits:
            return f"fits: {needs}, {room}"
        short = format_bytes(self.ram_bytes - self.available_bytes)
        if self.ram_bytes - self.file_backed_bytes <= self.available_bytes:
            return f"hardly fits: {needs}, {room}; the system would keep rereading {short} of the file"
        return f"does not fit: {needs}, {room}: {short} too little"

    def by_device(self) -> dict[str, int]:
        """Return resident bytes by device, the CPU first."""
        sums: dict[str, int] = {}
        for part in self.parts:
            sums[part.device] = sums.get(part.device, 0) + part.resident_bytes
        return sums
