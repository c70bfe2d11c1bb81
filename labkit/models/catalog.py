"""Well-known GGUF models, from 135 million to 30 billion weights: the table is ``catalog.json``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from labkit.models.cache import bundled_file, cached_file
from labkit.records import Record

BUNDLED_NAME = "smollm2-135m"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ModelEntry(Record):
    """One known model.

    Attributes
    ----------
    name : str
        Name for `load_model` and `fetch_model`.
    parameters : str
        Number of weights, rounded: ``"135M"``.
    quantization : str
        File type: ``"Q4_K_M"``.
    repository, filename : str
        Repository and file on the hub.
    size_bytes : int
        Size of the file.
    license : str
        The licence named in the model card. Only "apache-2.0" is an open-source licence; read the others.
    sha256 : str
        Checksum of the file.
    note : str
        What the model is useful for in the course.
    path : Path or None
        Its file on this machine: bundled, or in huggingface_hub's cache; None if it has not been fetched.
    """

    name: str
    parameters: str
    quantization: str
    repository: str
    filename: str
    size_bytes: int
    license: str
    sha256: str
    note: str
    path: Path | None = None


# Sizes and checksums come from the hub's LFS pointers (for the bundled model, from the installed file) and agree in at
# least two independent places, so a file that changes upstream is an error. Families whose files could not be verified so
# (Qwen 3.5 and later, Gemma 4) are not listed; `fetch_model("org/repository")` takes any. Licences: the model cards'.
CATALOG = tuple(ModelEntry(**row) for row in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")))


def list_models() -> tuple[ModelEntry, ...]:
    """Return the known models, smallest first, each with its path on this machine if it is here. Needs no network.

    Examples
    --------
    >>> [entry.name for entry in list_models()][:3]
    ['smollm2-135m', 'gemma-3-270m', 'smollm2-360m']
    >>> list_models()[0].size_bytes
    98362432
    """
    return tuple(map(_located, CATALOG))


def _located(entry: ModelEntry) -> ModelEntry:
    bundled = bundled_file() if entry.name == BUNDLED_NAME else None
    return dataclasses.replace(entry, path=bundled or cached_file(entry.repository, entry.filename))


def find_entry(name: str) -> ModelEntry | None:
    """Return the known model of this name (case-insensitive), with its path on this machine, or None."""
    return next((_located(entry) for entry in CATALOG if entry.name == name.strip().lower()), None)
