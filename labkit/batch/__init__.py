"""Batched generation: each read of the weights serves all sequences that are being generated.

::

    records    BatchItem, BatchResult, BatchChunk
    slots      the sequences' slots in the cache, and prefixes that they share
    sequence   one prompt being computed: its sampler, its text, its stop sequences
    loop       the loop: a sequence that ends is replaced by a waiting prompt
    parallel   how many sequences together: what fits into memory and is fastest
    generate   generate_batch, stream_batch, generate_batch_results
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
