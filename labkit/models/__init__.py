"""Models by name: find a model on this machine, list known models, and fetch one.

::

    catalog    table of well-known GGUF models
    cache      huggingface_hub's download cache, read without importing it
    resolve    a name, a path or nothing -> a file on this machine
    reference  parses "name", "org/repo", "org/repo:FILE.gguf"; chooses a repository's file
    hub        requests to the hub, and its errors in one line
    download   resumable, verified downloads into huggingface_hub's cache
"""

from __future__ import annotations

from labkit.models.catalog import ModelEntry, list_models
from labkit.models.download import fetch_model
from labkit.models.resolve import MODEL_VARIABLE, bundled_model_path, course_model, resolve_model

__all__ = [
    "MODEL_VARIABLE",
    "ModelEntry",
    "bundled_model_path",
    "course_model",
    "fetch_model",
    "list_models",
    "resolve_model",
]
