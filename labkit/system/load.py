"""CPU load: the cores that are idle or used by this process, between two samples."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from pathlib import Path

from labkit.system.cgroups import read_text
from labkit.system.cores import allowed_cpus, physical_cores_available

_NEARLY = 0.3  # of a core may be in use by others, and it counts as free
_YOUNG_S = 0.3  # a sample no older than this says how the machine is now
_LOOKS = 5  # at the number of runnable threads
_STAT = Path("/proc/stat")
_INTERVAL_S = 0.05  # Linux counts in ticks of 10 ms: shorter intervals would measure mostly rounding


class CpuLoad:
    """The number of cores free for this process. Thread-safe.

    Notes
    -----
    Free cores are idle cores plus those that this process uses: 2.0 on a machine with two cores without other programs,
    and 1.0 next to a program that keeps one core busy. Time stolen by a hypervisor is not free. A sample takes about
    30 µs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cpus = allowed_cpus()
        self._free: float | None = None
        self._at_s, self._idle_s, self._own_s = _sample(self._cpus)

    def free_cores(self) -> float | None:
        """Return the free cores since the last sample, at least 50 ms ago; None where the system does not report them."""
        if time.monotonic() - self._at_s < _INTERVAL_S:
            return self._free
        with self._lock:
            at_s, idle_s, own_s = _sample(self._cpus)
            if idle_s is None or self._idle_s is None:
                self._free = None
            elif at_s > self._at_s:
                free = (idle_s - self._idle_s + own_s - self._own_s) / (at_s - self._at_s)
                self._free = min(max(free, 0.0), float(len(self._cpus)))
            self._at_s, self._idle_s, self._own_s = at_s, idle_s, own_s
            return self._free

    def free_cores_at_once(self) -> float | None:
        """Return the free cores at this moment, and begin a new sample; None where the system does not report them.

        An old sample is the mean of a long time, in which other programs may have come and gone. Then Linux's number of
        runnable threads is used.
        """
        if time.monotonic() - self._at_s < _YOUNG_S:
            return self.free_cores()
        self.free_cores()
        running = _running_threads()
        n_cpus = len(self._cpus)
        self._free = None if running is None else float(max(0, min(n_cpus, (os.cpu_count() or n_cpus) - (running - 1))))
        return self._free


def _running_threads() -> int | None:
    """Return the threads that run or could run now, this one included (proc_loadavg(5), the fourth field).

    The least of some looks, because services often run for less than a millisecond; one is enough if nothing else runs.
    """
    counts: list[int] = []
    while not counts or (min(counts) > 1 and len(counts) < _LOOKS):
        if counts:
            time.sleep(0.001)
        words = read_text(Path("/proc/loadavg")).split()
        if len(words) < 4:
            return None
        counts.append(int(words[3].partition("/")[0]))
    return min(counts)


def _sample(cpus: frozenset[int]) -> tuple[float, float | None, float]:
    """Return the time, the idle time of these CPUs and this process's CPU time, seconds since arbitrary starting points."""
    idle_s = _idle_on_linux(cpus) if sys.platform.startswith("linux") else _idle_elsewhere(cpus)
    return time.monotonic(), idle_s or None, time.process_time()  # some containers report zeros


def _idle_on_linux(cpus: frozenset[int]) -> float:
    """Read ``/proc/stat``, whose lines name their CPU: user, nice, system, idle, iowait … in ticks (proc_stat(5)).

    The first line is the sum over all CPUs. This runs between two tokens, so it reads no more than it needs.
    """
    is_all = len(cpus) == _online_cpus()
    try:
        with _STAT.open("rb", buffering=0) as file:
            lines = [file.read(256)] if is_all else file.read().splitlines()
    except OSError:
        return 0.0
    ticks = 0
    for name, *counts in (line.split(None, 6) for line in lines if line.startswith(b"cpu")):
        if is_all or (name[3:].isdigit() and int(name[3:]) in cpus):
            ticks += int(counts[3]) + int(counts[4])
    return ticks / os.sysconf("SC_CLK_TCK")


@functools.lru_cache(maxsize=1)
def _online_cpus() -> int:
    return os.sysconf("SC_NPROCESSORS_ONLN")


def _idle_elsewhere(cpus: frozenset[int]) -> float:
    import psutil

    times = psutil.cpu_times(percpu=True)
    chosen = [times[cpu] for cpu in cpus if cpu < len(times)]
    return float(sum(each.idle for each in chosen))


def cores_left_now(seconds: float = 0.1) -> int:
    """Return the physical cores that this process may use and that other programs leave free, sampled now; at least 1."""
    load, most = CpuLoad(), physical_cores_available()
    time.sleep(seconds)
    free = load.free_cores()
    return most if free is None else min(most, whole_cores(free))


def whole_cores(free: float) -> int:
    """Return how many threads get a separate core when so much of the cores is free; at least 1."""
    return max(1, int(free + _NEARLY))
