"""References to a model on the hub: "name", "org/repo", "org/repo:Q8_0", "org/repo:FILE.gguf"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from labkit.checks import nearest
from labkit.errors import DownloadError, ModelNotFoundError
from labkit.models.catalog import CATALOG, find_entry

_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?::([\w./+-]+))?", re.ASCII)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_DEFAULT_QUANTIZATION = "Q4_K_M"


class Reference(NamedTuple):
    """A repository and, if known, the file in it or its quantization, and its checksum."""

    repository: str
    filename: str | None = None
    quantization: str | None = None
    sha256: str | None = None


def parse_reference(text: str) -> Reference:
    """Parse a reference to a model on the hub."""
    entry = find_entry(text)
    if entry is not None:
        return Reference(entry.repository, entry.filename, sha256=entry.sha256)
    match = _REPOSITORY.fullmatch(text.strip())
    if match is None or ".." in text:
        raise ModelNotFoundError(
            f"{text!r} is not a model{nearest_name(text)}: use a name from list_models() "
            f"({', '.join(known.name for known in CATALOG)}), 'org/repo' or 'org/repo:FILE.gguf'"
        )
    repository, below = match.groups()
    if below is None or below.lower().endswith(".gguf"):
        return Reference(repository, below)
    return Reference(repository, None, below)


def nearest_name(text: str) -> str:
    """Return " (did you mean 'X'?)" for the nearest known name, or an empty text."""
    near = nearest(text.strip().lower(), (entry.name for entry in CATALOG))
    return f" (did you mean {near!r}?)" if near else ""


def choose_file(reference: Reference, files: Iterable[str]) -> str:
    """Choose a repository's file: its only model, the requested quantization, or Q4_K_M."""
    models = sorted(file for file in files if file.lower().endswith(".gguf") and "mmproj" not in file.lower())
    firsts = [file for file in models if not (part := _PART.search(file)) or part[1] == "00001"]
    if not firsts:
        raise DownloadError(f"{reference.repository} has no GGUF model: look for a repository whose name ends in -GGUF")
    if len(firsts) == 1 and reference.quantization is None:
        return firsts[0]
    wanted = reference.quantization or _DEFAULT_QUANTIZATION
    fitting = [file for file in firsts if re.search(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9_])", file, re.I)]
    if not fitting:
        raise DownloadError(
            f"{reference.repository} has no {wanted} file: choose one with fetch_model"
            f"('{reference.repository}:FILE.gguf'); it has {', '.join(firsts)}"
        )
    return fitting[0]


def split_parts(filename: str) -> tuple[str, ...]:
    """Return the names of all parts of a split model, given any part; an unsplit file is the only part."""
    part = _PART.search(filename)
    if part is None:
        return (filename,)
    stem, count = filename[: part.start()], int(part[2])
    return tuple(f"{stem}-{number:05d}-of-{part[2]}{filename[-5:]}" for number in range(1, count + 1))
