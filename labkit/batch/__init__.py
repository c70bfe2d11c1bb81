"""Batched generation: each read of the weights serves all sequences that are being generated.

::

    records    BatchItem, BatchResult, BatchChunk
    slots      the sequences' slots in the cache, and prefixes that they share
    sequence   one prompt being computed: its sampler, its text, its stop sequences
    loop       the loop: a sequence that ends is replaced by a waiting prompt
    parallel   how many sequences together: what fits into memory and is fastest
    generate   generate_batch, stream_batch, generate_batch_results
"""

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
