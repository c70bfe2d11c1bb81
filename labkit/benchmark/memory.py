"""Peak RSS of this process during a block of code."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from labkit.system import peak_resident_bytes, reset_peak_resident, resident_bytes

INTERVAL_S = 0.05


class MemoryWatch:
    """Measure the peak RSS of a ``with`` block, by sampling and by the kernel's high-water mark where there is one.

    A thread samples with psutil 20 times per second. On Linux, the kernel's high-water mark is reset at the start, and
    misses nothing between two samples. The reset affects the whole process: `labkit.system.peak_resident_bytes` afterwards
    counts from here. ``cost_s`` is the CPU time of the sampling thread.

    Examples
    --------
    >>> with MemoryWatch() as memory:
    ...     block = bytearray(8 * 2**20)
    >>> memory.peak_bytes >= memory.before_bytes > 0
    True
    """

    def __init__(self, interval_s: float | None = None) -> None:
        self.interval_s = INTERVAL_S if interval_s is None else interval_s
        self.before_bytes = self.peak_bytes = self.n_samples = 0
        self.cost_s = self.elapsed_s = 0.0
        self.method = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="labkit-memory", daemon=True)
        self._kernel_counts = False
        self._started_s = 0.0

    def __enter__(self) -> MemoryWatch:
        self._kernel_counts = reset_peak_resident()
        self.before_bytes = self.peak_bytes = resident_bytes()
        self._started_s = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.elapsed_s = time.perf_counter() - self._started_s
        self._end.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, resident_bytes())
        self.method = f"the highest of {self.n_samples:,} samples, {1 / self.interval_s:.0f} per second (psutil)"
        if self._kernel_counts:
            self.peak_bytes = max(self.peak_bytes, peak_resident_bytes())
            self.method = f"the kernel's high-water mark (VmHWM), and {self.n_samples:,} samples (psutil)"

    def _sample(self) -> None:
        import psutil

        began = time.thread_time()
        process = psutil.Process()
        while not self._end.wait(self.interval_s):
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
            self.n_samples += 1
            self.cost_s = time.thread_time() - began
