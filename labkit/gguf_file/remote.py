"""Read a GGUF header from a server: range requests only, with limits on size, time and redirects."""

from __future__ import annotations

__all__ = ["RemoteSource"]

from labkit.errors import GGUFError


class RemoteSource:
    """A file on an ``http(s)`` server (being written)."""

    def __init__(self, url: str) -> None:
        raise GGUFError(f"{url}: reading from a server is not built yet: download the file first")
