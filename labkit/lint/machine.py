"""What this process may use of the machine, as far as loading a model is concerned."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from labkit.system import (
    EngineBuild,
    cpu_quota,
    engine_build,
    logical_cores_available,
    performance_cores_available,
    physical_cores_available,
    unused_instructions,
)

__all__ = ["Machine", "look_around"]


@dataclasses.dataclass(frozen=True)
class Machine:
    """Cores, load and engine.

    Attributes
    ----------
    physical, performance, logical : int
        Cores that this process may use; affinity and the container's quota count.
    quota : float or None
        CPUs' worth of time that the container may use.
    n_cpus : int
        Logical CPUs of the whole machine.
    load : float or None
        Processes that want to run, as the last minute's mean; None where the system does not tell.
    wait_policy : str
        The environment's ``OMP_WAIT_POLICY``.
    build : EngineBuild
    unused : tuple of str
        The CPU's instructions that the engine was not built for.
    """

    physical: int
    performance: int
    logical: int
    quota: float | None
    n_cpus: int
    load: float | None
    wait_policy: str
    build: EngineBuild
    unused: tuple[str, ...]


def look_around(root: Path = Path("/")) -> Machine:
    """Look at the machine; ``root`` is where ``proc`` and ``sys`` lie (tests pass a made-up tree)."""
    build = engine_build()
    return Machine(
        physical=physical_cores_available(root),
        performance=performance_cores_available(root),
        logical=logical_cores_available(root),
        quota=cpu_quota(root),
        n_cpus=os.cpu_count() or 1,
        load=_load(),
        wait_policy=os.environ.get("OMP_WAIT_POLICY", ""),
        build=build,
        unused=unused_instructions(build.features, root),
    )


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        return None
