"""CPU load: the cores that are idle or used by this process, between two samples."""

from __future__ import annotations

import os
import threading
import time

from labkit.system.cores import allowed_cpus

__all__ = ["CpuLoad"]

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


def _sample(cpus: frozenset[int]) -> tuple[float, float | None, float]:
    """Return the time, the idle time of these CPUs and this process's CPU time, seconds since arbitrary starting points."""
    import psutil

    try:
        times = psutil.cpu_times(percpu=True)
    except (OSError, RuntimeError, psutil.Error):
        times = []
    if len(times) == os.cpu_count():  # otherwise some are offline, and the order is unknown
        times = [times[cpu] for cpu in cpus if cpu < len(times)]
    idle_s = sum(each.idle + getattr(each, "iowait", 0.0) for each in times)
    known = idle_s > 0 or any(each.user > 0 for each in times)  # some containers report zeros
    return time.monotonic(), idle_s if known else None, time.process_time()
