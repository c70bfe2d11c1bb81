"""Many prompts at once: each read of the weights serves every sequence that is being generated.

::

    records    BatchItem, BatchResult, BatchChunk
    slots      which sequence stands where in the cache, and what its neighbours have computed of its prompt already
    sequence   one prompt on its way to a text: its sampler, its text, its stops
    loop       the loop: sequences that end make room for prompts that wait
    parallel   how many sequences together: what fits into memory, and what the engine's kernels like
    generate   generate_batch, stream_batch, generate_batch_results
"""

from __future__ import annotations

from labkit.batch.generate import BatchStream, generate_batch, generate_batch_results, stream_batch
from labkit.batch.records import BatchChunk, BatchItem, BatchResult

__all__ = [
    "BatchChunk",
    "BatchItem",
    "BatchResult",
    "BatchStream",
    "generate_batch",
    "generate_batch_results",
    "stream_batch",
]
