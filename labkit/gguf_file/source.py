"""Sources of GGUF bytes: a file on disk (or a server, see ``remote``), read by offset and not trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from labkit.checks import visible
from labkit.errors import GGUFError, ModelNotFoundError


class Source(Protocol):
    """One file that can be read by offset."""

    name: str  # the path or address, for messages
    size: int  # bytes of the whole file
    window_bytes: tuple[int, int]  # of a reader's first request, and of its largest

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return exactly ``n_bytes`` from ``offset``, or raise GGUFError."""

    def sibling(self, file_name: str) -> Source:
        """Return another file of the same folder, or raise ModelNotFoundError."""


INCOMPLETE = "download incomplete? fetch it again"
"""What to do about a file that ends too early."""


def gguf_error(name: str, problem: str, offset: int | None = None, advice: str = "fetch the file again") -> GGUFError:
    """Return a one-line error: which file, what is wrong, where, what to do next."""
    where = "" if offset is None else f" (at byte {offset:,})"
    return GGUFError(f"{visible(name, 400)}: {problem}{where}: {advice}")


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class LocalSource:
    """A regular file (a FIFO would block forever), opened for each read, so no handle stays open."""

    window_bytes = (1 << 18, 1 << 18)  # 256 KiB: fits the CPU's second-level cache

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        info = self._stat()
        self.size = info.st_size
        self._stamp = (info.st_size, info.st_mtime_ns)
        if self.size == 0:
            raise gguf_error(self.name, "the file is empty, a GGUF is needed", 0, INCOMPLETE)

    def _stat(self) -> os.stat_result:
        try:
            info = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise ModelNotFoundError(
                f"{visible(self.name, 400)}: no such file: check the path, or see list_models() for names that work"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            raise gguf_error(self.name, f"cannot be read, {_reason(error)}", advice="check the path") from None
        if not stat.S_ISREG(info.st_mode):
            kind = _KINDS.get(stat.S_IFMT(info.st_mode), "not a regular file")
            raise gguf_error(self.name, f"this is {kind}, a GGUF file is needed", advice="give the path of a file")
        return info

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return exactly ``n_bytes`` from ``offset``; refuse a file that has changed since it was first opened."""
        try:
            with self.path.open("rb", buffering=0) as file:
                info = os.fstat(file.fileno())
                if (info.st_size, info.st_mtime_ns) != self._stamp:
                    raise gguf_error(self.name, "the file changed while it was read", offset, "read it again")
                file.seek(offset)
                data = file.read(n_bytes)
        except OSError as error:
            raise gguf_error(self.name, f"cannot be read, {_reason(error)}", offset, "check the path") from None
        if len(data) != n_bytes:
            raise gguf_error(self.name, "the file became shorter while it was read", offset + len(data))
        return data

    def sibling(self, file_name: str) -> LocalSource:
        """Return another file of the same folder, or raise ModelNotFoundError."""
        return LocalSource(self.path.with_name(file_name))


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
