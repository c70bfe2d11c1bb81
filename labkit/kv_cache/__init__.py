"""What each layer caches per token, and its size.

::

    layers  what a model's layers cache, from its header
    size    cells, rows and layers -> size of the cache
"""
