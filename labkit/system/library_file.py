"""Shared libraries on disk: which files an engine has, and why one of them cannot be loaded."""

from __future__ import annotations

import itertools
import platform
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_LIBRARY = re.compile(r"(lib)?(ggml|llama|mtmd).*\.(so|dylib|dll)(\.[\d.]+)?")
_MAIN = re.compile(r"(lib)?llama\.(so|dylib|dll)")
# The machine in the header of an ELF, a Windows and a macOS library.
_ELF = {3: "x86", 40: "arm", 62: "x86-64", 183: "arm64", 243: "riscv", 21: "ppc64", 22: "s390x"}
_PE = {0x14C: "x86", 0x8664: "x86-64", 0xAA64: "arm64"}
_MACH = {0x01000007: "x86-64", 0x0100000C: "arm64"}
_NAMES = {"amd64": "x86-64", "x86_64": "x86-64", "aarch64": "arm64", "i686": "x86", "armv7l": "arm", "ppc64le": "ppc64"}
_SYSTEM = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform)
ILLEGAL = ("signal 4", f"exit status {0xC000001D}")  # SIGILL, and STATUS_ILLEGAL_INSTRUCTION of Windows
# In the loader's messages; re compiles a pattern when it is first used.
_VERSION = r"version [`'](\w+_)([\d.]+)' not found \(required by (.+?)\)"
_MISSING = r"(\S+): cannot open shared object file|Library not loaded: (\S+)|Error loading shared library (\S+):"
_SYMBOL = (
    r"undefined symbol: (\w+)|function '(\w+)' not found|[Ss]ymbol not found: '?(\w+)|symbol\(s\) not found: (\w+)|"
    r"(\w+): symbol not found|dlsym\(\w+, (\w+)\)"
)


def library_files(folder: Path) -> list[Path]:
    """Return the engine's libraries in a folder; none if it cannot be read."""
    try:
        return sorted(file for file in folder.iterdir() if _LIBRARY.fullmatch(file.name))
    except OSError:
        return []


def main_library(folder: Path) -> Path | None:
    """Return llama.cpp's main library in a folder."""
    return next((file for file in library_files(folder) if _MAIN.fullmatch(file.name)), None)


def this_machine() -> str:
    """Return the processor's family that this Python was built for, such as "x86-64"."""
    import sysconfig

    name = sysconfig.get_platform().rpartition("-")[2]
    return _NAMES.get(name if name in _NAMES else platform.machine().lower(), name)


def explain_fault(fault: str, folder: Path) -> str:
    """Return why libraries cannot be loaded, in words: from their files, or else from the loader's message."""
    crashed, not_found = fault.startswith(("signal", "exit status")), "Shared library with base name" in fault
    if not_found and not folder.is_dir():
        return f"{str(folder)!r} is {'not a folder' if folder.exists() else 'missing'}"
    if folder.is_dir() and (crashed or not_found or "Failed to load shared library" in fault):
        for file in library_files(folder):
            if wrong := wrong_with(file):
                return f"{file.name} {wrong}"
    if not_found:
        return f"there is no library 'llama' in {str(folder)!r}"
    if crashed:
        illegal = "uses an instruction that this processor does not have"
        return f"it {illegal if fault in ILLEGAL else 'ends the process that loads it'} ({fault})"
    if version := re.search(_VERSION, fault):
        have = " ".join(platform.libc_ver()).strip() or "another C library"
        library = "an older one" if version[1] != "GLIBC_" else have
        return f"{Path(version[3]).name} needs {version[1]}{version[2]}, and this system has {library}"
    if missing := re.search(_MISSING, fault):
        return f"the library {Path(_first(missing)).name.rstrip(':')} is missing"
    if symbol := re.search(_SYMBOL, fault):
        return f"its libraries and llama-cpp-python are not of the same version: {_first(symbol)} is missing"
    return fault


def _first(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group)


def wrong_with(file: Path) -> str:
    """Return what is wrong with a library's file by its header, or nothing."""
    try:
        with file.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    size = file.stat().st_size
    if not head:
        return "is empty"
    system, machines = _built_for(head)
    if not system:
        kind = "a text file" if b"\0" not in head else "a damaged file"
        return f"is {kind}, not a library"
    if system != _SYSTEM:
        return f"was built for {system}, and this is {_SYSTEM}"
    if machines and this_machine() not in machines:
        return f"was built for {' and '.join(machines)} processors, and this Python for {this_machine()}"
    return "is cut off: install it again" if system == "Linux" and size < _elf_size(head) else ""


def _built_for(head: bytes) -> tuple[str, Sequence[str]]:
    """Return the system and the machines of a library, by its first bytes; no system if it is not a library."""
    if head[:4] == b"\x7fELF" and len(head) >= 20:
        return "Linux", [_ELF.get(struct.unpack_from("<H", head, 18)[0], "other")]
    if head[:2] == b"MZ" and len(head) >= 64:
        at = struct.unpack_from("<I", head, 60)[0]
        machine = struct.unpack_from("<H", head, at + 4)[0] if at + 6 <= len(head) else 0
        return "Windows", [_PE.get(machine, "other")]
    if head[:4] == b"\xcf\xfa\xed\xfe" and len(head) >= 8:
        return "macOS", [_MACH.get(struct.unpack_from("<I", head, 4)[0], "other")]
    if head[:4] == b"\xca\xfe\xba\xbe" and len(head) >= 8:  # several machines in one file
        count = min(struct.unpack_from(">I", head, 4)[0], 8)
        kinds = itertools.islice(struct.iter_unpack(">5I", head[8 : 8 + 20 * count]), count)
        return "macOS", [_MACH.get(kind[0], "other") for kind in kinds]
    return "", []


def _elf_size(head: bytes) -> int:
    """Return how long an ELF file of 64 bits is at least: to the end of its table of sections, or of its segments."""
    if len(head) < 64 or head[4] != 2:
        return 64
    segments, sections = struct.unpack_from("<QQ", head, 32)
    segment_bytes, n_segments, section_bytes, n_sections = struct.unpack_from("<4H", head, 54)
    return int(max(segments + segment_bytes * n_segments, sections + section_bytes * n_sections))
