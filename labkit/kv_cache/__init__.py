"""What each layer caches per token, and its size.

::

    layers  what a model's layers cache, from its header
    size    cells, rows and layers -> size of the cache
"""

__all__ = ["CACHE_TYPES", "CELLS", "PROMPT_STEP"]

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
PROMPT_STEP = 64  # tokens of a prompt that labkit computes together on a CPU
CELLS = 256  # the context is rounded up to a multiple of this, and attention reads this many cells at a time
