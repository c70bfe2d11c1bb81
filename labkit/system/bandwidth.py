"""RAM read bandwidth of this process: it limits the decoding speed, because every weight is read once per token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from labkit.errors import ArgumentError
from labkit.system.cores import physical_cores_available


def measure_read_bandwidth(n_threads: int | None = None, *, size_bytes: int = 256 * 2**20, seconds: float = 1.0) -> float:
    """Measure how fast this process can read RAM, in bytes per second.

    Each thread reduces its own part of one array with NumPy's bitwise OR; all threads start together, and the slowest ends
    the pass. The best pass counts, as in STREAM, because interference can only slow a pass down. The array must be many
    times the largest cache, or the cache's bandwidth is measured; at least three passes are made.

    References
    ----------
    J. D. McCalpin, Memory Bandwidth and Machine Balance in Current High Performance Computers, 1995.
    """
    threads = physical_cores_available() if n_threads is None else n_threads
    if threads < 1 or size_bytes < 8 * threads or seconds <= 0:
        raise ArgumentError(
            f"n_threads={n_threads}, size_bytes={size_bytes}, seconds={seconds}: all must be positive, "
            "and size_bytes at least 8 per thread"
        )
    import numpy as np

    # Write every page once: an untouched array of zeros is one shared page, read from the cache.
    parts = np.array_split(np.full(size_bytes // 8, 0x55, dtype=np.int64), threads)
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < 3 or time.perf_counter() < end:
        durations.append(_read_once([partial(np.bitwise_or.reduce, part) for part in parts]))
    return sum(part.nbytes for part in parts) / min(durations)


def _read_once(readers: list[Callable[[], object]]) -> float:
    """Run each reader in a separate thread; return the seconds from the common start to the last end."""
    start = threading.Barrier(len(readers) + 1)

    def run(reader: Callable[[], object]) -> None:
        start.wait()
        reader()  # NumPy releases the interpreter lock here

    workers = [threading.Thread(target=run, args=(reader,)) for reader in readers]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began
