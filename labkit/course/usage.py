"""What memory a process and all that it started use, by Linux's own count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["machine_is_full", "memory_of", "processes_below", "threads_of"]

# A share of what several processes have in common, where Linux tells that of a stranger's process; else all of it.
_COUNTS = (("smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")), ("status", ("RssAnon:", "RssShmem:")))


def processes_below(first: int) -> Iterator[int]:
    """Yield a process and all that it started, directly or not, by number."""
    waiting = [first]
    while waiting:
        number = waiting.pop()
        yield number
        for task in _entries(Path(f"/proc/{number}/task")):
            with contextlib.suppress(OSError):
                waiting += map(int, (task / "children").read_text().split())


def memory_of(first: int) -> int:
    """Return the bytes that processes use of their own; mapped files, such as models, do not count."""
    return sum(map(_own_bytes, processes_below(first)))


def threads_of(first: int) -> int:
    """Return how many threads a process and all that it started have: what Linux counts against RLIMIT_NPROC."""
    return sum(len(_entries(Path(f"/proc/{number}/task"))) for number in processes_below(first))


def machine_is_full() -> bool:
    """Whether less than a twentieth of the machine's memory is left: what a sandbox uses can escape all other counts."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 20 < int(lines["MemTotal"].split()[0])
    except (OSError, KeyError):
        return False


def _own_bytes(number: int) -> int:
    for file, names in _COUNTS:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{number}/{file}").read_text().splitlines()
            return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))
    return 0


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
