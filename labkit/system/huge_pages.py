"""Pages of 2 MiB instead of 4 KiB for large blocks of memory, on Linux.

Each token reads all weights, and the processor looks up the address of each page that it reads. A look-up that is not cached
is especially slow in a virtual machine. Most Linux systems use huge pages only where a program requests them, and llama.cpp
does not.

References
----------
Linux ``Documentation/admin-guide/mm/transhuge.rst``; ``madvise(2)``; ``proc_pid_maps(5)``.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

from labkit.system.cgroups import read_text

LARGE_BYTES = 64 * 2**20  # for smaller blocks, huge pages take longer to prepare than they save
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MADV_HUGEPAGE = 14


def request_huge_pages(n_bytes: int) -> None:
    """Request huge pages for ``n_bytes`` that were just allocated, and are still empty; only Linux has such a request.

    All of this process's blocks of that size and more are marked, because their addresses are not known. Fewer than 64 MiB
    are not worth it.
    """
    if n_bytes < LARGE_BYTES or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(AttributeError):  # a C library without madvise
        madvise = ctypes.CDLL(None).madvise
        for start, size in _blocks(read_text(Path("/proc/self/maps")), n_bytes):
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_HUGEPAGE)


def _blocks(maps: str, n_bytes: int) -> list[tuple[int, int]]:
    """Return (address, size) of each block of at least ``n_bytes`` that is private, can be written and has no file."""
    blocks = []
    for line in maps.splitlines():
        span, access, _, _, inode, *name = line.split()
        start, end = (int(address, 16) for address in span.split("-"))
        if access == "rw-p" and inode == "0" and not name and end - start >= n_bytes:
            blocks.append((start, end - start))
    return blocks


def huge_pages_setting() -> str | None:
    """Return how the system gives out huge pages: ``always``, ``madvise`` (on request) or ``never``; None if unknown."""
    return read_text(_SWITCH).partition("[")[2].partition("]")[0] or None
