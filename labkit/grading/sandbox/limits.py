"""Limits: what one untrusted notebook may take."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from labkit.errors import ArgumentError

__all__ = ["Limits", "machine_is_full", "memory_of", "processes_below", "threads_of"]


_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one untrusted notebook may take; a session that wants more is ended.

    Parameters
    ----------
    cell_s, total_s : float
        Wall time of a cell, and of all kernels of a notebook together.
    start_s : float
        Wall time until a kernel answers.
    grace_s : float
        How long a kernel may take to heed an interrupt.
    memory_bytes : int
        Memory of its own (files that are mapped, such as models, do not count), of all its processes together.
    address_bytes : int
        Address space of a process: room for mapped models.
    processes : int
        Processes and threads.
    file_bytes : int
        Of all the files that it writes (they stand in memory), and of each.
    output_bytes : int
        Of all that a cell prints or shows.
    value_bytes : int
        Of the JSON text of an answer.

    Raises
    ------
    ArgumentError
        When one is not more than 0, or not finite.
    """

    cell_s: float = 60.0
    total_s: float = 600.0
    start_s: float = 60.0
    grace_s: float = 1.0
    memory_bytes: int = 2048 * _MIB
    address_bytes: int = 16384 * _MIB
    processes: int = 128
    file_bytes: int = 64 * _MIB
    output_bytes: int = 1 * _MIB
    value_bytes: int = 100_000

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value < math.inf:
                raise ArgumentError(f"{name}={value} is out of range: a limit is finite and more than 0")


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
