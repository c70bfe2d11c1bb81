"""What this process may use of the machine: cores, RAM, read bandwidth, and llama.cpp's build.

A process may not be allowed to use the whole machine: CPU affinity and a container's CPU quota and memory limit are
respected. llama.cpp runs best with one thread per physical core, because two hyper-threads share the arithmetic units.

::

    cgroups    container limits, read from a file tree that tests can replace
    load       how busy the machine is now
    cores      physical, performance and logical cores
    ram        free RAM, RSS, peak RSS
    build      llama.cpp's CPU features, backends, devices and repacked types
    instructions  CPU instructions that the build does not use
    bandwidth  RAM read speed, bytes per second
    profile    all of these in one record
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
