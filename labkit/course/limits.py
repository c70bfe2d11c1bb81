"""Limits: what one untrusted notebook may take."""

from __future__ import annotations

import dataclasses
import math

from labkit.errors import ArgumentError

__all__ = ["Limits"]

_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one untrusted notebook may take; a session that wants more is ended.

    Parameters
    ----------
    cell_s, total_s : float
        Wall time of a cell, and of all kernels of a notebook together.
    start_s : float
        Wall time until a kernel answers.
    grace_s : float
        How long a kernel may take to heed an interrupt.
    memory_bytes : int
        Memory of its own (files that are mapped, such as models, do not count), of all its processes together.
    address_bytes : int
        Address space of a process: room for mapped models.
    processes : int
        Processes and threads.
    file_bytes : int
        Of all the files that it writes (they stand in memory), and of each.
    output_bytes : int
        Of all that a cell prints or shows.
    value_bytes : int
        Of the JSON text of an answer.

    Raises
    ------
    ArgumentError
        When one is not more than 0, or not finite.
    """

    cell_s: float = 60.0
    total_s: float = 600.0
    start_s: float = 60.0
    grace_s: float = 1.0
    memory_bytes: int = 2048 * _MIB
    address_bytes: int = 16384 * _MIB
    processes: int = 128
    file_bytes: int = 64 * _MIB
    output_bytes: int = 1 * _MIB
    value_bytes: int = 100_000

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value < math.inf:
                raise ArgumentError(f"{name}={value} is out of range: a limit is finite and more than 0")
