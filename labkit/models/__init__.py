"""Models by name: find a model on this machine, list known models, and fetch one.

::

    catalog    table of well-known GGUF models
    cache      huggingface_hub's download cache, read without importing it
    resolve    a name, a path or nothing -> a file on this machine
    reference  parses "name", "org/repo", "org/repo:FILE.gguf"; chooses a repository's file
    hub        requests to the hub, and its errors in one line
    download   resumable, verified downloads into huggingface_hub's cache
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
