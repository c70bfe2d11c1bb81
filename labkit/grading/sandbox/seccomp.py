"""A system call filter: no new namespaces, mounts or tracing, and no memory that the other limits do not count."""

from __future__ import annotations

import platform
import struct

# Numbers from Linux's asm/unistd.h: mounts and namespaces; kernel interfaces that notebooks do not need and whose bugs have
# allowed sandbox escapes; memory that belongs to no process (memfd, System V), which no limit counts.
_X86_64 = (
    *(165, 166, 155, 272, 308, 304, 428, 429, 430, 431, 432, 442),  # mount … mount_setattr, unshare, setns, handles
    *(101, 310, 311, 298, 321, 323, 425, 426, 427),  # ptrace, process_vm_*, perf_event_open, bpf, userfaultfd, io_uring_*
    *(246, 175, 313, 248, 249, 250, 319, 447, 29, 30, 64, 68),  # kexec, modules, keys, memfd_*, shm, semget, msgget
)
_AARCH64 = (
    *(40, 39, 41, 97, 268, 265, 428, 429, 430, 431, 432, 442),
    *(117, 270, 271, 241, 280, 282, 425, 426, 427),
    *(104, 105, 273, 217, 218, 219, 279, 447, 194, 196, 190, 186),
)
# By machine: the architecture's constant in audit.h, the denied calls, and the number of clone.
_MACHINES = {"x86_64": (0xC000003E, _X86_64, 56), "aarch64": (0xC00000B7, _AARCH64, 220)}
_CLONE3 = 435  # its flags are in memory, which a filter cannot read; without it the C library falls back to clone
_NEW_NAMESPACES = 0x7E020000
_LOAD, _AND, _EQUAL, _ANY, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _NOT_PERMITTED, _NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def system_call_filter() -> bytes | None:
    """Return the filter for `bwrap --seccomp`; None on an architecture without a table above."""
    if platform.machine() not in _MACHINES:
        return None
    architecture, denied, clone = _MACHINES[platform.machine()]
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    steps += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _NO_SUCH_CALL)]  # the x32 ABI's call numbers
    for number in denied:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOT_PERMITTED)]
    steps += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _NO_SUCH_CALL)]
    steps += [(_EQUAL, 0, 3, clone), (_LOAD, 0, 0, 16), (_ANY, 0, 1, _NEW_NAMESPACES), (_RETURN, 0, 0, _NOT_PERMITTED)]
    steps += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
