"""Would the engine survive this file? llama.cpp ends the whole process on some files that parse well."""

from __future__ import annotations

from labkit.gguf_file.header import Header

__all__ = ["preflight"]


def preflight(header: Header) -> tuple[str, ...]:
    """Refuse what would kill the engine, and return what is odd, one sentence each.

    Raises
    ------
    GGUFError
        When loading the file, or generating with it, would end the process.
    """
    return header.warnings
