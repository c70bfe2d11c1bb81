"""References to a model on the hub: "name", "org/repo", "org/repo:Q8_0", "org/repo:FILE.gguf", or an address of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from labkit.checks import nearest
from labkit.errors import DownloadError, ModelNotFoundError
from labkit.models.catalog import CATALOG, find_entry
from labkit.models.pasted import hub_reference, unwrap
from labkit.units import counted

_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?::([\w./+ ()-]+))?", re.ASCII)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_DEFAULT_QUANTIZATION = "Q4_K_M"
# Files that accompany a model; a word in the repository's own name says nothing about a file.
_COMPANION = (
    r"mmproj|imatrix|(?<![a-z0-9])(mtp|nextn|eagle\d*|dflash|dspark|medusa|draft(?:er)?|assistant|speculator|lora|adapter"
    r"|projector|vocab|control[-_]?vector)(?![a-z0-9])"
)
_NO_MODEL = ("mmproj", "imatrix", "vocab", "projector")
_QUANTIZATION = r"[-_.]?(?:(?:ud|i1)[-_.])?(?:i?q\d\w*|tq\d\w*|(?:mx|nv)fp4\w*|b?f16|f32|fp16|fp32|bf16)(?![a-z0-9])"


class Reference(NamedTuple):
    """A repository and, if known, the file in it or its quantization, and its checksum."""

    repository: str
    filename: str | None = None
    quantization: str | None = None
    sha256: str | None = None


def parse_reference(text: str) -> Reference:
    """Parse a reference to a model on the hub."""
    entry = find_entry(unwrap(text))
    if entry is not None:
        return Reference(entry.repository, entry.filename, sha256=entry.sha256)
    match = _REPOSITORY.fullmatch((hub_reference(text) or unwrap(text)).rstrip("/:"))
    if match is None or ".." in text:
        raise ModelNotFoundError(
            f"{text!r} is not a model{nearest_name(text)}: use a name from list_models() "
            f"({', '.join(known.name for known in CATALOG)}), 'org/repo' or 'org/repo:FILE.gguf'"
        )
    repository, below = match.groups()
    if below is None or below.lower().endswith(".gguf"):
        return Reference(repository, below)
    if below.lower() == "latest":  # Ollama's name for no tag
        return Reference(repository)
    return Reference(repository, None, below)


def nearest_name(text: str) -> str:
    """Return " (did you mean 'X'?)" for the nearest known name, or an empty text."""
    near = nearest(text.strip().lower(), (entry.name for entry in CATALOG))
    return f" (did you mean {near!r}?)" if near else ""


def choose_file(reference: Reference, files: Iterable[str]) -> str:
    """Choose a repository's file: its only model, the requested quantization, or Q4_K_M."""
    return choose(reference, files)[0]


def choose(reference: Reference, files: Iterable[str]) -> tuple[str, str]:
    """Return a repository's file, as `choose_file`, and why it was chosen."""
    repository, wanted = reference.repository, reference.quantization or _DEFAULT_QUANTIZATION
    models = sorted(file for file in files if file.lower().endswith(".gguf"))
    firsts = [file for file in models if not (part := _PART.search(file)) or part[1] == "00001"]
    found = [file for file in firsts if not _companions(file, repository)]
    found = found or [file for file in firsts if not _companions(file, repository).intersection(_NO_MODEL)]
    if not found:
        raise DownloadError(f"{repository} has no GGUF model: look for a repository whose name ends in -GGUF")
    others = f"; its parts, drafts or projectors: {counted(len(models) - 1, 'file')}" if len(models) > 1 else ""
    if len(found) == 1 and reference.quantization is None:
        return found[0], f"its only model{others}"
    base = re.sub(r"[-_.](i1[-_.])?gguf$", "", repository.partition("/")[2].lower())
    named = {
        file: re.sub(_QUANTIZATION, "", _PART.sub("", file.lower()).removesuffix(".gguf").rpartition("/")[2])
        for file in found
    }
    spelled = re.sub(r"(?i)^fp?(?=(16|32)$)", "fp?", re.escape(wanted))
    pattern = re.compile(rf"(?<![a-z0-9]){spelled}(?![a-z0-9_])", re.IGNORECASE)
    fitting = [file for file in found if pattern.search(file)]
    if fitting:
        best = min(fitting, key=lambda file: (named[file] != base, len(file), file))
        return best, f"{'its' if reference.quantization else 'the default,'} {wanted} of {counted(len(found), 'model')}"
    exact = [file for file in found if named[file] == base]
    if len(exact) == 1 and reference.quantization is None:
        return exact[0], "the only file that is named as the repository"
    raise DownloadError(
        f"{repository} has no {wanted} file: choose one with fetch_model('{repository}:FILE.gguf'); "
        f"it has {', '.join(firsts)}"
    )


def _companions(file: str, repository: str) -> set[str]:
    """Return the words that make a file something that accompanies a model."""
    words = {match[0] for match in re.finditer(_COMPANION, file.lower())}
    return words - {match[0] for match in re.finditer(_COMPANION, repository.lower())}


def split_parts(filename: str) -> tuple[str, ...]:
    """Return the names of all parts of a split model, given any part; an unsplit file is the only part."""
    part = _PART.search(filename)
    if part is None:
        return (filename,)
    stem, count = filename[: part.start()], int(part[2])
    return tuple(f"{stem}-{number:05d}-of-{part[2]}{filename[-5:]}" for number in range(1, count + 1))
