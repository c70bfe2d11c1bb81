"""CPU instructions that the installed llama.cpp does not use, because prebuilt packages target older CPUs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from labkit.system.cgroups import read_text

# Kernel flag -> name in llama.cpp's system info, for the instructions that speed up matrix products most.
_INSTRUCTIONS = (("avx2", "AVX2"), ("avx512f", "AVX512"), ("fma", "FMA"))


def unused_instructions(features: Iterable[str], root: Path = Path("/")) -> tuple[str, ...]:
    """Return the instructions that the CPU has but llama.cpp was not built for; known only for Linux on x86."""
    flags, have = cpu_flags(root), frozenset(features)
    return tuple(name for flag, name in _INSTRUCTIONS if flag in flags and name not in have)


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """Return the CPU's features as Linux on x86 names them, such as ``"avx2"``; empty elsewhere."""
    lines = read_text(root / "proc/cpuinfo").splitlines()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags") and ":" in line), []))
