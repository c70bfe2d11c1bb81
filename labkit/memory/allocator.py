"""Size of the compute buffer: a graph of tensors, laid out in one buffer as ggml does.

Every operation needs memory for its result, which is free again after the last operation that reads it. The highest address
depends on the holes between allocations and has no closed formula, so the layout is simulated, as ggml does before it
computes anything.

References
----------
llama.cpp ``ggml/src/ggml-alloc.c`` (``ggml_gallocr_alloc_graph_impl``, ``ggml_dyn_tallocr_alloc``).
"""

from __future__ import annotations

import dataclasses

from labkit.units import round_up

_ALIGNMENT = 32
_FLOAT = 4


@dataclasses.dataclass(eq=False)
class Tensor:
    """One result of a graph: its size, its sources, and the operations that still read it."""

    n_bytes: int  # 0 for a view
    sources: tuple[Tensor, ...] = ()
    viewed: Tensor | None = None  # the tensor whose memory it shares
    may_overwrite: bool = False  # a source of equal size that no other operation reads
    is_output: bool = False
    readers: int = 0
    views: int = 0
    offset: int = -1

    @property
    def root(self) -> Tensor:
        """The tensor that owns the memory."""
        return self.viewed or self


class Graph:
    """Tensors in the order of computation."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._free: list[tuple[int, int]] = []
        self._end = 0
        self._peak = 0

    def input(self, n_elements: int, element_bytes: int = _FLOAT) -> Tensor:
        """Add an input."""
        tensor = Tensor(_aligned(n_elements * element_bytes))
        self._inputs.append(tensor)
        return tensor

    def compute(self, n_elements: int, *sources: Tensor, output: bool = False) -> Tensor:
        """Add a result of 32-bit floats in its own memory."""
        return self._add(Tensor(_aligned(n_elements * _FLOAT), sources, is_output=output))

    def overwrite(self, *sources: Tensor) -> Tensor:
        """Add a result of its first source's size, which may overwrite a source that no other operation reads."""
        return self._add(Tensor(sources[0].root.n_bytes, sources, may_overwrite=True))

    def view(self, source: Tensor) -> Tensor:
        """Add a view of a tensor or of a part of it."""
        return self._add(Tensor(0, (source,), viewed=source.root))

    def store(self, *sources: Tensor) -> None:
        """Write tensors into the cache, which is a separate buffer."""
        self._add(Tensor(0, sources))

    def _add(self, tensor: Tensor) -> Tensor:
        self._tensors.append(tensor)
        return tensor

    def buffer_bytes(self) -> int:
        """Simulate the layout and return its highest address, bytes."""
        for tensor in self._tensors:
            if tensor.viewed is not None:
                tensor.viewed.views += 1
            for source in tensor.sources:
                source.readers += 1
        for tensor in self._inputs:
            tensor.offset = self._allocate(tensor.n_bytes)
        for tensor in self._tensors:
            self._place(tensor)
            for source in tensor.sources:
                self._read(source)
        return self._peak

    def _place(self, tensor: Tensor) -> None:
        if tensor.viewed is not None or not tensor.n_bytes:
            return
        over = next((source for source in tensor.sources if _can_overwrite(tensor, source)), None)
        if over is None:
            tensor.offset = self._allocate(tensor.n_bytes)
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
            self._free_range(root.offset, root.n_bytes)
            root.offset = -1

    def _allocate(self, n_bytes: int) -> int:
        """Return the offset of the smallest hole that is large enough, or of the end."""
        holes = [(size, index) for index, (_, size) in enumerate(self._free) if size >= n_bytes]
        if not holes:
            offset = self._end  # no hole ends here: free space at the end is not kept as a hole
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

    def _free_range(self, offset: int, n_bytes: int) -> None:
        """Free a range and merge it with adjacent holes."""
        holes = sorted([*self._free, (offset, n_bytes)])
        joined: list[tuple[int, int]] = []
        for start, size in holes:
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((start, size))
        if joined and sum(joined[-1]) == self._end:  # free up to the end: not a hole
            self._end = joined.pop()[0]
        self._free = joined


def _can_overwrite(tensor: Tensor, source: Tensor) -> bool:
    """Return whether a result may overwrite a source: equal size, no other reader and no view."""
    if not tensor.may_overwrite or source.viewed is not None or source.offset < 0 or source.is_output:
        return False
    return source.n_bytes == tensor.n_bytes and source.readers == 1 and not source.views


def _aligned(n_bytes: int) -> int:
    return round_up(n_bytes, _ALIGNMENT)
