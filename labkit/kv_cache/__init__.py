"""What each layer keeps of the tokens that it has seen, and its bytes.

::

    layers  what a model's layers hold, from its header
    size    cells, rows and layers -> the cache's bytes
"""
