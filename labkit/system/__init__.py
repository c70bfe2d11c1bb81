"""The machine as this process may use it: cores, RAM, read bandwidth, and the engine's build.

What the machine *has* and what a process *may use* differ: CPU affinity, a container's CPU quota and memory limit
all count here. One thread a physical core is what llama.cpp wants: two hyper-threads share the same arithmetic units.

::

    cgroups    container limits, read from a file tree that a test can make up
    load       how busy the machine is now
    cores      physical, performance and logical cores
    ram        RAM free, RAM held, the peak
    build      what llama.cpp was built with, its devices, what it repacks
    instructions  what this CPU has and the build does not use
    bandwidth  bytes per second read from RAM
    profile    all of it in one record
"""

from __future__ import annotations

from labkit.system.bandwidth import measure_read_bandwidth
from labkit.system.build import Device, EngineBuild, engine_build, is_repacked, repacked_types
from labkit.system.cgroups import cpu_quota
from labkit.system.cores import logical_cores_available, performance_cores_available, physical_cores_available
from labkit.system.instructions import unused_instructions
from labkit.system.load import CpuLoad
from labkit.system.profile import SystemProfile, measure_system
from labkit.system.ram import (
    available_ram_bytes,
    peak_resident_bytes,
    reset_peak_resident,
    resident_bytes,
    total_ram_bytes,
)

__all__ = [
    "CpuLoad",
    "Device",
    "EngineBuild",
    "SystemProfile",
    "available_ram_bytes",
    "cpu_quota",
    "engine_build",
    "is_repacked",
    "logical_cores_available",
    "measure_read_bandwidth",
    "measure_system",
    "peak_resident_bytes",
    "performance_cores_available",
    "physical_cores_available",
    "repacked_types",
    "reset_peak_resident",
    "resident_bytes",
    "total_ram_bytes",
    "unused_instructions",
]
