"""llama.cpp's libraries from the package llama-cpp-py-sync, where llama-cpp-python was installed without its own.

That needs no compiler (docs/install.md). `llama_cpp` calls the libraries' C functions with structs of one version, so only
versions of llama-cpp-py-sync in `SOUND` are used; tests/test_prebuilt.py compares their structs and functions.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

VARIABLE = "LLAMA_CPP_LIB_PATH"  # read by llama_cpp when it is imported
SOUND = {"0.3.36": "0.11413"}  # llama-cpp-python -> llama-cpp-py-sync with the same llama.cpp, and with RPC


def use_prebuilt() -> None:
    """Set `VARIABLE`, unless it is set, if llama_cpp was installed without libraries and llama-cpp-py-sync fits it."""
    if VARIABLE not in os.environ and (folder := prebuilt_folder()) and not why_not_prebuilt():
        os.environ[VARIABLE] = str(folder)


def why_not_prebuilt() -> str:
    """Return why the installed llama-cpp-py-sync is not used, and what to install; empty if it can be, or is not there."""
    if not prebuilt_folder():
        return ""
    engine, prebuilt = _version("llama-cpp-python"), _version("llama-cpp-py-sync")
    if SOUND.get(engine) == prebuilt:
        return ""
    wanted, libraries = (engine, SOUND[engine]) if engine in SOUND else list(SOUND.items())[-1]
    return (
        f"llama-cpp-py-sync {prebuilt} is not used, because it may not be the llama.cpp of llama-cpp-python {engine}: "
        f'pip install -C wheel.cmake=false "llama-cpp-python=={wanted}" "llama-cpp-py-sync=={libraries}"'
    )


def prebuilt_folder() -> Path | None:
    """Return the folder of llama-cpp-py-sync if llama_cpp is installed without libraries."""
    own = _folder("llama_cpp")
    return None if own is None or (own / "lib").is_dir() else _folder("llama_cpp_py_sync")


def _folder(package: str) -> Path | None:
    """Return a package's folder without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # the latter: a module without a specification
        return None
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # importing it takes 10 ms, and is rarely needed

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of an unknown version"
