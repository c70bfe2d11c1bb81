"""The architectures that the installed llama.cpp knows, without loading it."""

from __future__ import annotations

import functools
import mmap
import string
from pathlib import Path

from labkit.errors import EngineError
from labkit.system.engine_library import library_folder
from labkit.system.library_file import main_library, wrong_with

_IN_NAMES = (string.ascii_lowercase + string.digits + "-.").encode()
_LONGEST = 24  # characters that can come before a name where the linker stores it as the end of a longer one


@functools.lru_cache(maxsize=64)
def engine_knows(architecture: str) -> bool:
    """Return whether the installed llama.cpp has a name of this architecture; True where its library is not found.

    Notes
    -----
    The library stores the names as C strings. A linker may store one as the end of another ("bert" in "neo-bert").
    """
    name = architecture.encode("utf-8", "replace") + b"\0"
    file = _library()
    if file is None:
        return True
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(name)
        while at >= 0:
            before = content[max(0, at - _LONGEST) : at].rstrip(_IN_NAMES)
            if before.endswith(b"\0"):
                return True
            at = content.find(name, at + 1)
    return False


def _library() -> Path | None:
    """Return llama.cpp's main library; None where it is missing or damaged."""
    try:
        file = main_library(library_folder())
    except EngineError:
        return None
    return None if file is None or wrong_with(file) else file
