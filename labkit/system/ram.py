"""RAM that this process may use and does use."""

from __future__ import annotations

import sys
from pathlib import Path

from labkit.system.cgroups import memory_limits, read_text

_ROOT = Path("/")


def total_ram_bytes(root: Path = _ROOT) -> int:
    """Return the total RAM for this process, in bytes: the machine's, or its container's limit if that is less."""
    import psutil

    return min([psutil.virtual_memory().total, *(limit.limit_bytes for limit in memory_limits(root))])


def available_ram_bytes(root: Path = _ROOT) -> int:
    """Return the RAM this process can allocate now without swapping, in bytes.

    The minimum of the RAM that is free on the machine, in each enclosing container (file cache counts as free), and under
    the address-space limit (``ulimit -v``).
    """
    import psutil

    limits = [limit.available_bytes for limit in memory_limits(root)]
    return min([psutil.virtual_memory().available, *limits, *_address_space_left()])


def _address_space_left() -> tuple[int, ...]:
    if sys.platform != "win32":
        import resource

        import psutil

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            return (max(0, soft - psutil.Process().memory_info().vms),)
    return ()


def resident_bytes() -> int:
    """Return the RSS of this process, in bytes. It includes mapped file pages and shared pages."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """Return the peak RSS of this process, in bytes, since its start or the last `reset_peak_resident`.

    References
    ----------
    proc_pid_status(5) (VmHWM); getrusage(2), where ru_maxrss is in KiB on Linux and in bytes on macOS.
    """
    return status_bytes("VmHWM") or _process_peak_bytes()


def status_bytes(name: str) -> int | None:
    """Return a value of ``/proc/self/status``, such as ``"RssAnon"``; None where the system does not report it."""
    lines = (line.split() for line in read_text(Path("/proc/self/status")).splitlines() if line.startswith(f"{name}:"))
    return next((int(words[1]) * 1024 for words in lines), None)


def _process_peak_bytes() -> int:
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    else:
        import psutil

        peak = int(psutil.Process().memory_info().peak_wset)
    return peak


def reset_peak_resident() -> bool:
    """Reset the peak of `peak_resident_bytes` to the current RSS; return False where the system cannot.

    References
    ----------
    proc_pid_clear_refs(5): writing 5 resets VmHWM.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
