"""Peak RSS of this process during a block of code."""

from __future__ import annotations

import threading
from types import TracebackType

from labkit.system import peak_resident_bytes, reset_peak_resident, resident_bytes

INTERVAL_S = 0.05


class MemoryWatch:
    """Measure the peak RSS of a ``with`` block: by the kernel's high-water mark, or by 20 samples per second.

    Linux resets the mark at the start, for the whole process: `labkit.system.peak_resident_bytes` afterwards counts from
    here. Elsewhere a thread samples with psutil.

    Examples
    --------
    >>> with MemoryWatch() as memory:
    ...     block = bytearray(8 * 2**20)
    >>> memory.peak_bytes >= memory.before_bytes > 0
    True
    """

    def __enter__(self) -> MemoryWatch:
        self._kernel_counts = reset_peak_resident()
        self.before_bytes = self.peak_bytes = resident_bytes()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="labkit-memory", daemon=True)
        if not self._kernel_counts:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        if not self._kernel_counts:
            self._thread.join()
        self.peak_bytes = max(self.peak_bytes, peak_resident_bytes() if self._kernel_counts else resident_bytes())

    def _sample(self) -> None:
        while not self._end.wait(INTERVAL_S):
            self.peak_bytes = max(self.peak_bytes, resident_bytes())
