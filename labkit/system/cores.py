"""Cores that this process may use, within affinity and the container's CPU quota; hyper-thread siblings count once."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path

from labkit.system.cgroups import cpu_quota, read_text

_ROOT = Path("/")
_CAPACITY_SHARE, _FREQUENCY_SHARE = 0.6, 0.8  # of the fastest core's: the least that counts as fast


def physical_cores_available(root: Path = _ROOT) -> int:
    """Count the physical cores this process may use, within affinity and the container's CPU quota; siblings count once.

    A fractional quota is rounded down, to at least 1: one thread too many waits for the next period at every barrier.
    """
    return _within_quota(count_physical(allowed_cpus(), root), root)


def performance_cores_available(root: Path = _ROOT) -> int:
    """Count the physical cores this process may use, without slow ("efficiency") cores where the system reports them.

    Every layer ends at a barrier, so one slow core delays all fast cores. Equals `physical_cores_available` where all
    cores are alike or the system does not distinguish them.
    """
    allowed = allowed_cpus()
    fast = allowed & parse_cpu_list(read_text(root / "sys/devices/cpu_core/cpus"))  # Intel's hybrid CPUs on Linux
    count = count_physical(fast or fast_cpus(allowed, root), root)
    return _within_quota(min(count, _mac_performance_cores() or count), root)


def fast_cpus(cpus: frozenset[int], root: Path = _ROOT) -> frozenset[int]:
    """Return those of a set of logical CPUs that are not much slower than the fastest; all where Linux does not say.

    Notes
    -----
    ARM's kernels report each core's capacity, in 1024ths of the fastest core's; other kernels, and those that report one
    capacity for all, only the maximum frequency. It differs a little among equal cores (an AMD Ryzen's by up to 10 %), and
    more between kinds (Zen 5 and Zen 5c: 35 %).

    References
    ----------
    Linux kernel, Documentation/scheduler/sched-capacity.rst ("cpu_capacity"); Documentation/admin-guide/pm/cpufreq.rst.
    """
    folder = root / "sys/devices/system/cpu"
    for name, share in (("cpu_capacity", _CAPACITY_SHARE), ("cpufreq/cpuinfo_max_freq", _FREQUENCY_SHARE)):
        texts = {cpu: read_text(folder / f"cpu{cpu}" / name) for cpu in cpus}
        speeds = {cpu: int(text) for cpu, text in texts.items() if text.isdigit()}
        most = max(speeds.values(), default=0)
        fast = frozenset(cpu for cpu, speed in speeds.items() if speed >= share * most)
        if len(speeds) == len(cpus) and len(set(speeds.values())) > 1:
            return fast
    return cpus


def logical_cores_available(root: Path = _ROOT) -> int:
    """Count the logical cores (hardware threads) this process may use, within affinity and CPU quota."""
    return _within_quota(len(allowed_cpus()), root)


def _within_quota(cores: int, root: Path) -> int:
    quota = cpu_quota(root)
    limit = getattr(os, "process_cpu_count", lambda: None)()  # Python 3.13: respects PYTHON_CPU_COUNT and -X cpu_count
    return max(1, min(cores, limit or cores, cores if quota is None else math.floor(quota)))


def allowed_cpus() -> frozenset[int]:
    """Return the logical CPUs this process may run on; on macOS, which has no affinity, all CPUs."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    import psutil

    ask = getattr(psutil.Process(), "cpu_affinity", None)  # Windows and FreeBSD
    allowed: list[int] = []
    with contextlib.suppress(OSError, psutil.Error):
        allowed = ask() if ask else []
    return frozenset(allowed or range(os.cpu_count() or 1))


def count_physical(cpus: frozenset[int], root: Path = _ROOT) -> int:
    """Count the physical cores of a set of logical CPUs: hyper-thread siblings count once.

    Linux reports the siblings. On other systems the machine's ratio of physical to logical cores is used.
    """
    folder = root / "sys/devices/system/cpu"
    cores = {read_text(folder / f"cpu{cpu}/topology/thread_siblings_list") for cpu in cpus}
    if "" not in cores:
        return max(1, len(cores))
    import psutil

    physical, logical = psutil.cpu_count(logical=False), psutil.cpu_count()
    share = physical / logical if physical and logical else 1.0
    return max(1, round(len(cpus) * share))


def parse_cpu_list(text: str) -> frozenset[int]:
    """Parse the kernel's CPU list format, such as ``0-2,8,10-11``."""
    ranges = (part.strip().partition("-") for part in text.split(",") if part.strip())
    return frozenset(cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1))


def _mac_performance_cores() -> int | None:
    if sys.platform == "darwin":
        import ctypes
        from ctypes.util import find_library

        value, size = ctypes.c_int32(), ctypes.c_size_t(4)
        name = b"hw.perflevel0.physicalcpu"  # the call fails on Intel Macs, which do not have this name
        libc = ctypes.CDLL(find_library("c"))
        if libc.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0) == 0:
            return value.value
    return None
