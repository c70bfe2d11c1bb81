"""Models by name: where one lies on this machine, which ones are known, and how to fetch one.

::

    catalog    a small table of well-known GGUF models
    cache      where huggingface_hub keeps downloads, read without importing it
    resolve    a name, a path or nothing -> a file on this machine
    reference  "name", "org/repo", "org/repo:FILE.gguf" and which file of a repository is meant
    hub        questions to the hub, and its answers as one-line errors
    download   fetch a file: resumable, checked, into huggingface_hub's own cache
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
