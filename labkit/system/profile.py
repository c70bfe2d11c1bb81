"""All system measurements in one record."""

from __future__ import annotations

import dataclasses
import platform

from labkit.records import Record
from labkit.system.bandwidth import measure_read_bandwidth
from labkit.system.build import EngineBuild, engine_build
from labkit.system.cgroups import cpu_quota
from labkit.system.cores import logical_cores_available, performance_cores_available, physical_cores_available
from labkit.system.ram import available_ram_bytes, total_ram_bytes


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SystemProfile(Record):
    """What this process may use of the machine, and the build of llama.cpp.

    Attributes
    ----------
    os, cpu : str
        Operating system and release; name of the processor.
    physical_cores, performance_cores, logical_cores : int
        Cores this process may use (see `physical_cores_available`).
    cpu_quota : float or None
        The container's limit in CPUs.
    ram_total_bytes, ram_available_bytes : int
        RAM this process may use, and how much of it is free now.
    read_bytes_per_second : float or None
        Memory read bandwidth with ``bandwidth_threads`` threads; None where it was not measured.
    bandwidth_threads : int or None
        Number of reading threads.
    bandwidth_method : str or None
        Method of the measurement, one sentence.
    engine : EngineBuild
        Features of the installed llama.cpp.
    """

    os: str
    cpu: str
    physical_cores: int
    performance_cores: int
    logical_cores: int
    cpu_quota: float | None
    ram_total_bytes: int
    ram_available_bytes: int
    read_bytes_per_second: float | None
    bandwidth_threads: int | None
    bandwidth_method: str | None
    engine: EngineBuild


def measure_system(*, bandwidth: bool = True, seconds: float = 1.0) -> SystemProfile:
    """Determine what this process may use of the machine, and the build of llama.cpp.

    Parameters
    ----------
    bandwidth : bool
        Whether to measure the read bandwidth, which takes about ``seconds``; else it is None.
    seconds : float
        Duration of that measurement.

    Raises
    ------
    EngineError
        When llama.cpp is not installed or cannot be loaded.
    """
    engine = engine_build()
    threads = physical_cores_available()
    # At most a quarter of the free RAM, to avoid swapping on a small machine.
    size = min(256 * 2**20, max(2**20, available_ram_bytes() // 4))
    speed = measure_read_bandwidth(threads, size_bytes=size, seconds=seconds) if bandwidth else None
    method = f"best pass of {threads} threads reading {size / 2**20:.0f} MiB with NumPy's bitwise OR"
    return SystemProfile(
        os=f"{platform.system()} {platform.release()}",
        cpu=_cpu_name(engine),
        physical_cores=threads,
        performance_cores=performance_cores_available(),
        logical_cores=logical_cores_available(),
        cpu_quota=cpu_quota(),
        ram_total_bytes=total_ram_bytes(),
        ram_available_bytes=available_ram_bytes(),
        read_bytes_per_second=speed,
        bandwidth_threads=threads if bandwidth else None,
        bandwidth_method=method if bandwidth else None,
        engine=engine,
    )


def _cpu_name(engine: EngineBuild) -> str:
    """Return the processor's name, from ggml, because the standard library knows it on few systems."""
    names = [device.description for device in engine.devices if device.kind == "CPU" and device.description != "CPU"]
    return names[0] if names else platform.processor() or platform.machine()
