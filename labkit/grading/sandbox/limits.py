"""Limits: resource limits for one untrusted notebook."""

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
    """Resource limits for one untrusted notebook; its kernel is killed if it exceeds one.

    Parameters
    ----------
    cell_s, total_s : float
        Wall time per cell, and of all kernels of a notebook together.
    start_s : float
        Wall time until a kernel answers.
    grace_s : float
        Time that a kernel has to react to an interrupt.
    memory_bytes : int
        Private memory of all its processes together; mapped files, such as models, do not count.
    address_bytes : int
        Address space per process, including mapped models.
    processes : int
        Number of processes and threads.
    file_bytes : int
        Size of all files that it writes (they are in memory), and of each.
    output_bytes : int
        Size of a cell's output.
    value_bytes : int
        Size of an answer's JSON text.

    Raises
    ------
    ArgumentError
        If a limit is not positive and finite.
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
                raise ArgumentError(f"{name}={value} is out of range: a limit must be finite and greater than 0")


# Proportional share of shared memory, if Linux reports it for another user's process; otherwise all of it.
_COUNTS = (("smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")), ("status", ("RssAnon:", "RssShmem:")))


def processes_below(first: int) -> Iterator[int]:
    """Yield the ids of a process and all its descendants."""
    waiting = [first]
    while waiting:
        number = waiting.pop()
        yield number
        for task in _entries(Path(f"/proc/{number}/task")):
            with contextlib.suppress(OSError):
                waiting += map(int, (task / "children").read_text().split())


def memory_of(first: int) -> int:
    """Return the private memory of a process and its descendants, in bytes; mapped files, such as models, do not count."""
    return sum(map(_private_bytes, processes_below(first)))


def threads_of(first: int) -> int:
    """Return the number of threads of a process and its descendants, which Linux counts against RLIMIT_NPROC."""
    return sum(len(_entries(Path(f"/proc/{number}/task"))) for number in processes_below(first))


def machine_is_full() -> bool:
    """Return whether less than 5 % of the machine's memory is left: a sandbox may use memory that no other limit counts."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 20 < int(lines["MemTotal"].split()[0])
    except (OSError, KeyError):
        return False


def _private_bytes(number: int) -> int:
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
