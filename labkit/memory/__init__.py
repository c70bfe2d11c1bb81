"""Estimate a model's memory from its header (weights, cache, buffers, runtime), and find settings that fit.

::

    weights         tensors -> llama.cpp's buffers, by device
    allocator       simulation of ggml's allocator
    graph_blocks    blocks of a model's graph, and the batch that goes through them
    compute_buffer  outline of a model's graph -> the compute buffer
    records         MemoryEstimate and its parts
    plan            what determines the memory: checked arguments
    estimate        estimate_memory_usage
    dry_run         llama.cpp's own figures, from a dry run
    recommend       recommend_settings
    measure         measure_memory: actual memory, in a subprocess
"""

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
