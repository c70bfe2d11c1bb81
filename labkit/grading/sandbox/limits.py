"""Limits: resource limits for one untrusted notebook."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from labkit.errors import ArgumentError

_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Resource limits for one untrusted notebook; its kernel is killed if it exceeds one."""

    cell_s: float = 60.0  # wall time
    total_s: float = 600.0  # wall time of all kernels of a notebook together
    start_s: float = 60.0  # until a kernel answers
    grace_s: float = 1.0  # to react to an interrupt
    memory_bytes: int = 2048 * _MIB  # private memory of all its processes; mapped files, such as models, do not count
    address_bytes: int = 16384 * _MIB  # per process, including mapped models
    processes: int = 128  # and threads
    file_bytes: int = 64 * _MIB  # of all files that it writes (they are in memory), and of each
    output_bytes: int = 1 * _MIB  # of a cell
    value_bytes: int = 100_000  # of an answer's JSON text

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
    import psutil

    memory = psutil.virtual_memory()
    return bool(memory.available * 20 < memory.total)


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
