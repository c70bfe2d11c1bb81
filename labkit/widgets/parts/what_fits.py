"""What fits into RAM and on a device: memory estimates, the longest context, the most layers; sizes in the engine's log.

`Sizes` are bytes by place (``"RAM"``, ``"device"``) and part (``"weights"``, ``"cache"``, …).
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from typing import Any

from labkit.gguf_file import Header
from labkit.kv_cache import CELLS
from labkit.kv_cache.layers import number
from labkit.memory import MemoryEstimate
from labkit.memory.estimate import estimate_plan
from labkit.memory.plan import make_plan

Sizes = Mapping[str, Mapping[str, int]]

RAM, DEVICE = "RAM", "device"
_MIB = 2**20
_UNKNOWN_CONTEXT = 4096  # if the file does not state the trained context
_PARTS = {"model": "weights", "KV": "cache", "RS": "state", "output": "output", "compute": "compute"}
_BUFFER = re.compile(r"^\w+: +(\S+) +(model|KV|RS|output|compute) buffer size = +([0-9.]+) MiB", re.MULTILINE)
_HOST = re.compile(r"CPU|\w*_Host\b")


def estimate_from_header(header: Header, n_ctx: int, *, ram_bytes: int | None = None, **settings: Any) -> MemoryEstimate:
    """Estimate a model's memory by formula, from a header that is already read, in milliseconds.

    The settings are those of `estimate_memory_usage`; ``ram_bytes`` is by default what this process may use now.
    """
    return estimate_plan(make_plan(header, n_ctx, **settings), "formula", ram_bytes)


def trained_context(header: Header) -> int:
    """Return the trained context in tokens; 4,096 if the file does not state it."""
    return number(header, "context_length", _UNKNOWN_CONTEXT)


def n_layers(header: Header) -> int:
    """Return the number of layers that can be on a device; the output counts as one."""
    return number(header, "block_count") + 1


def longest_context(header: Header, ram_bytes: int, **settings: Any) -> int:
    """Return the longest context, up to the trained one, that fits into RAM; 0 if none does."""

    def needed(n: int) -> int:
        return estimate_from_header(header, n * CELLS, ram_bytes=ram_bytes, **settings).ram_bytes

    return CELLS * bisect.bisect_right(range(1, -(-trained_context(header) // CELLS) + 1), ram_bytes, key=needed)


def most_gpu_layers(header: Header, n_ctx: int, device_bytes: int) -> int:
    """Return how many layers fit on a device, with their cache and the compute buffer."""

    def needed(count: int) -> int:
        return estimate_from_header(header, n_ctx, n_gpu_layers=count).gpu_bytes

    return bisect.bisect_right(range(1, n_layers(header) + 1), device_bytes, key=needed)


def by_place(estimate: MemoryEstimate) -> Sizes:
    """Return an estimate's sizes in RAM and on all devices together."""
    sizes: dict[str, dict[str, int]] = {RAM: {}}
    for part in estimate.parts:
        _add(sizes, RAM if part.device == "CPU" else DEVICE, part.name, part.resident_bytes)
    return sizes


def reported(load_log: str) -> Sizes:
    """Return the buffer sizes in the engine's log of a load, which rounds to 0.01 MiB and has no size of the process itself.

    Examples
    --------
    >>> reported("load_tensors: RPC0[127.0.0.1:50052] model buffer size =    58.25 MiB")
    {'RAM': {}, 'device': {'weights': 61079552}}
    """
    sizes: dict[str, dict[str, int]] = {RAM: {}}
    for holder, what, size in _BUFFER.findall(load_log):
        part = "repacked weights" if holder.endswith("_REPACK") else _PARTS[what]
        _add(sizes, RAM if _HOST.match(holder) else DEVICE, part, round(float(size) * _MIB))
    return sizes


def _add(sizes: dict[str, dict[str, int]], place: str, part: str, n_bytes: int) -> None:
    parts = sizes.setdefault(place, {})
    parts[part] = parts.get(part, 0) + n_bytes
