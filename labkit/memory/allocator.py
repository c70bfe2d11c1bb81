"""How large the compute buffer must be: a graph of tensors, laid out in one buffer as ggml lays them out.

Every operation needs room for its result, and a result's room is free again when its last reader is done. There is no closed
formula for the highest address that this reaches: it depends on which holes are left where. So the graph's layout is played
through, as ggml does before it computes anything.

References
----------
llama.cpp ``ggml/src/ggml-alloc.c`` (``ggml_gallocr_alloc_graph_impl``, ``ggml_dyn_tallocr_alloc``).
"""

from __future__ import annotations

import dataclasses

__all__ = ["Graph", "Tensor"]

_ALIGNMENT = 32
_FLOAT = 4


@dataclasses.dataclass(eq=False)
class Tensor:
    """One result of a graph: its size, where it comes from, and who still reads it.

    Attributes
    ----------
    n_bytes : int
        Its size; a view has none of its own.
    sources : tuple of Tensor
        What it is computed from.
    viewed : Tensor or None
        Whose memory it shows.
    may_overwrite : bool
        Whether it can be written over a source of its own size that nobody else reads.
    """

    n_bytes: int
    sources: tuple[Tensor, ...] = ()
    viewed: Tensor | None = None
    may_overwrite: bool = False
    is_input: bool = False
    is_output: bool = False
    readers: int = 0
    views: int = 0
    offset: int = -1

    @property
    def root(self) -> Tensor:
        """The tensor whose memory this is."""
        return self.viewed or self


class Graph:
    """Tensors in the order in which they are computed."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._free: list[tuple[int, int]] = []
        self._end = 0
        self._peak = 0

    def input(self, n_elements: int, element_bytes: int = _FLOAT) -> Tensor:
        """Add what is given from outside."""
        tensor = Tensor(_aligned(n_elements * element_bytes), is_input=True)
        self._inputs.append(tensor)
        return tensor

    def compute(self, n_elements: int, *sources: Tensor, output: bool = False) -> Tensor:
        """Add a result of 32-bit floats with room of its own."""
        return self._add(Tensor(_aligned(n_elements * _FLOAT), sources, is_output=output))

    def overwrite(self, *sources: Tensor) -> Tensor:
        """Add a result of its first source's size, which may be written over one that nobody else reads."""
        return self._add(Tensor(sources[0].root.n_bytes, sources, may_overwrite=True))

    def view(self, source: Tensor) -> Tensor:
        """Add another look at a tensor, or at a part of it."""
        return self._add(Tensor(0, (source,), viewed=source.root))

    def store(self, *sources: Tensor) -> None:
        """Write tensors into the cache, which lies elsewhere."""
        self._add(Tensor(0, sources))

    def _add(self, tensor: Tensor) -> Tensor:
        self._tensors.append(tensor)
        return tensor

    def buffer_bytes(self) -> int:
        """Play the layout through and return the highest address that it reaches, bytes."""
        for tensor in self._tensors:
            if tensor.viewed is not None:
                tensor.viewed.views += 1
            for source in tensor.sources:
                source.readers += 1
        for tensor in self._inputs:
            tensor.offset = self._take(tensor.n_bytes)
        for tensor in self._tensors:
            self._place(tensor)
            for source in tensor.sources:
                self._read(source)
        return self._peak

    def _place(self, tensor: Tensor) -> None:
        if tensor.viewed is not None or not tensor.n_bytes:
            return
        over = next((source for source in tensor.sources if _can_take_over(tensor, source)), None)
        if over is None:
            tensor.offset = self._take(tensor.n_bytes)
        else:
            tensor.offset, over.offset = over.offset, -1

    def _read(self, source: Tensor) -> None:
        source.readers -= 1
        if source.readers or source.views:
            return
        root = source.root
        if source is not root:
            root.views -= 1
        if not root.readers and not root.views and root.offset >= 0 and not root.is_output:
            self._give_back(root.offset, root.n_bytes)
            root.offset = -1

    def _take(self, n_bytes: int) -> int:
        """Return the offset of the smallest hole that is large enough, or of the end."""
        holes = [(size, index) for index, (_, size) in enumerate(self._free) if size >= n_bytes]
        if not holes:
            offset = self._end  # no hole touches it: what is free up to the end is not kept as a hole
            self._end = offset + n_bytes
            self._peak = max(self._peak, self._end)
            return offset
        best = min(size for size, _ in holes)
        index = max(index for size, index in holes if size == best)
        offset, size = self._free[index]
        if size == n_bytes:
            del self._free[index]
        else:
            self._free[index] = (offset + n_bytes, size - n_bytes)
        return offset

    def _give_back(self, offset: int, n_bytes: int) -> None:
        """Free a stretch and join it with the holes that it touches."""
        holes = sorted([*self._free, (offset, n_bytes)])
        joined: list[tuple[int, int]] = []
        for start, size in holes:
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((start, size))
        if joined and sum(joined[-1]) == self._end:  # free to the end: nothing to remember
            self._end = joined.pop()[0]
        self._free = joined


def _can_take_over(tensor: Tensor, source: Tensor) -> bool:
    """Say whether a result may be written over a source: one of its size, with no other reader and no view of it."""
    if not tensor.may_overwrite or source.viewed is not None or source.offset < 0 or source.is_output:
        return False
    return source.n_bytes == tensor.n_bytes and source.readers == 1 and not source.views


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
