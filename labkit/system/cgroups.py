"""Container limits: the CPU quota and memory limit that Linux control groups set for this process.

In a container, ``/proc/cpuinfo`` and ``/proc/meminfo`` show the whole machine; the limits are in the files of its
control group. Every function has the root of the file tree as a parameter, so tests can use an artificial tree.

References
----------
Linux kernel, Documentation/admin-guide/cgroup-v2.rst ("cpu.max", "memory.max") and
Documentation/admin-guide/cgroup-v1/memory.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

# v1 writes "no limit" as the largest whole number of pages in 63 bits; no real limit is near 2^60 bytes (1 EiB).
_NO_LIMIT = 2**60


class MemoryLimit(NamedTuple):
    """One control group's memory limit and usage, in bytes.

    ``used_bytes`` excludes the file cache, which the kernel frees before it refuses memory.
    """

    limit_bytes: int
    used_bytes: int

    @property
    def available_bytes(self) -> int:
        """Bytes that are still free within the limit."""
        return max(0, self.limit_bytes - self.used_bytes)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of this process, in CPUs, or None without a limit.

    The lowest limit from the process's group up to the root counts.

    Notes
    -----
    Version 2 writes ``cpu.max`` as "quota period" in microseconds, version 1 two files; quota / period is in CPUs.
    """
    quotas = [quota for folder in _folders("cpu", root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _quota_of(folder: Path) -> float | None:
    words = read_text(folder / "cpu.max").split() or [
        *read_text(folder / "cpu.cfs_quota_us").split(),
        *read_text(folder / "cpu.cfs_period_us").split(),
    ]
    numbers = [int(word) for word in words if word.isdigit()]  # "max" and "-1" mean no limit
    return numbers[0] / numbers[1] if len(numbers) == 2 and numbers[1] > 0 and numbers[0] > 0 else None


def memory_limits(root: Path = Path("/")) -> tuple[MemoryLimit, ...]:
    """Return the memory limits of this process, from its own group upwards; empty without a limit."""
    return tuple(limit for folder in _folders("memory", root) if (limit := _memory_of(folder)) is not None)


def _memory_of(folder: Path) -> MemoryLimit | None:
    texts = [read_text(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    limits = [int(text) for text in texts if text.isdigit() and int(text) < _NO_LIMIT]
    if not limits:
        return None
    used = read_text(folder / "memory.current") or read_text(folder / "memory.usage_in_bytes") or "0"
    return MemoryLimit(min(limits), max(0, int(used) - _file_cache_bytes(folder)))


def _file_cache_bytes(folder: Path) -> int:
    """Return the bytes of file cache charged to the group, including mapped model files."""
    pairs = (line.split() for line in read_text(folder / "memory.stat").splitlines())
    stat = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
    # in v1, the prefix "total_" marks the sum over the group's subtree
    return sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("active_file", "inactive_file"))


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's group and its parents for a controller."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, names, path = [*line.split(":", 2), "", ""][:3]
        version_2 = number == "0" and not names
        if version_2 or controller in names.split(","):
            yield from _upwards(path, _mount("" if version_2 else controller, root), root)


def _upwards(path: str, mount: tuple[str, str] | None, root: Path) -> Iterator[Path]:
    if mount is None:
        return
    mounted, at = mount
    try:
        below = PurePosixPath(path).relative_to(mounted)
    except ValueError:  # the group is outside the part of the tree that the container shows
        below = PurePosixPath()
    top = root / at.lstrip("/")
    if ".." in below.parts:  # a path above this process's cgroup namespace
        below = PurePosixPath()
    leaf = top / below
    yield leaf
    for parent in leaf.parents:
        if not parent.is_relative_to(top):
            return
        yield parent


def _mount(controller: str, root: Path) -> tuple[str, str] | None:
    """Return (mounted group, mount point) of a version 1 controller, or of version 2 for ``""``."""
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" if not controller else kind[0] == "cgroup" and controller in kind[2].split(","):
            return fields[3], fields[4]
    return None


def read_text(file: Path) -> str:
    """Return a kernel file's stripped text, or "" if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # no such controller, not Linux, or no permission: no known limit
        return ""
