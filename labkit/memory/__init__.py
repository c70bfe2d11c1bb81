"""What a model takes, from its header alone: weights, cache, buffers, runtime; and the settings that fit.

::

    caches     cells, rows and layers -> the cache's bytes
    weights    tensors -> the engine's buffers, by device
    allocator  ggml's allocator, played through
    graphs     a model's graph in outline -> the compute buffer
    work       the room to convert activations
    records    MemoryEstimate and its parts
    estimate   estimate_memory_usage
    advice     recommend_settings
    measure    measure_memory: what it really took, in a process of its own
"""

from __future__ import annotations

from labkit.memory.estimate import estimate_memory_usage
from labkit.memory.measure import MeasuredMemory, measure_memory
from labkit.memory.recommend import Recommendation, recommend_settings
from labkit.memory.records import MemoryEstimate, MemoryPart

__all__ = [
    "MeasuredMemory",
    "MemoryEstimate",
    "MemoryPart",
    "Recommendation",
    "estimate_memory_usage",
    "measure_memory",
    "recommend_settings",
]
