"""Ways for llama.cpp not to load: copies of its libraries and of llama-cpp-python, each damaged in one way."""

from __future__ import annotations

import os
import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import llama_cpp

PACKAGE = Path(llama_cpp.__file__).parent
LIBRARIES = PACKAGE / "lib"
ILLEGAL = {"x86_64": b"\x0f\x0b", "aarch64": b"\0\0\0\0"}
# x86-64: write a byte at 512 of the structure whose address is the hidden first argument, and return the address
WRITES_FAR = bytes.fromhex("c68700020000014889f8c3")


def copy_libraries(folder: Path) -> Path:
    """Link the engine's libraries into a folder, so that any can be replaced there."""
    folder.mkdir(parents=True)
    for file in LIBRARIES.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    return folder


def change(folder: Path, name: str, edit: Callable[[bytearray], bytearray | bytes | None]) -> None:
    """Replace a library, by each of its names, with an edited copy."""
    data = bytearray((LIBRARIES / f"{name}.so").read_bytes())
    result = edit(data)
    for file in folder.glob(f"{name}.so*"):
        file.unlink()
        file.write_bytes(data if result is None else result)


def remove(folder: Path, name: str) -> None:
    """Remove a library by each of its names."""
    for file in folder.glob(f"{name}.so*"):
        file.unlink()


def replace_bytes(old: bytes, new: bytes) -> Callable[[bytearray], None]:
    """Return an edit that replaces a text everywhere by one of the same length."""

    def edit(data: bytearray) -> None:
        assert len(old) == len(new)
        assert old in data
        data[:] = data.replace(old, new)

    return edit


def newer_c_library(data: bytearray) -> None:
    """Ask for a C library of the future."""
    data[:] = re.sub(rb"\0GLIBC_2\.\d\d\0", b"\0GLIBC_9.99\0", data)


def set_field(offset: int, number: int) -> Callable[[bytearray], None]:
    """Return an edit that sets 16 bits of the header."""
    return lambda data: struct.pack_into("<H", data, offset, number)


def on_load(code: bytes) -> Callable[[bytearray], None]:
    """Return an edit that runs machine code when the library is loaded: its DT_INIT function."""

    def edit(data: bytearray) -> None:
        dynamic = next(_section(data, kind=6))
        for at in range(dynamic[0], dynamic[0] + dynamic[1], 16):
            tag, value = struct.unpack_from("<QQ", data, at)
            if tag == 12:  # DT_INIT
                _overwrite(data, value, code)

    return edit


def in_function(name: str, code: bytes) -> Callable[[bytearray], None]:
    """Return an edit that replaces the beginning of an exported function."""

    def edit(data: bytearray) -> None:
        symbols = next(_section(data, kind=11))  # SHT_DYNSYM
        texts = next(_section(data, kind=3))  # the first table of strings is .dynstr
        found = 0
        for at in range(symbols[0], symbols[0] + symbols[1], 24):
            start = texts[0] + struct.unpack_from("<I", data, at)[0]
            if data[start : data.index(0, start)] == name.encode():
                _overwrite(data, struct.unpack_from("<Q", data, at + 8)[0], code)
                found += 1
        assert found

    return edit


def _section(data: bytearray, kind: int):  # type: ignore[no-untyped-def]
    """Yield (offset, size) of an ELF file's sections of a kind."""
    offset, size, count = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<HH", data, 58)
    for index in range(count):
        at = offset + index * size
        if struct.unpack_from("<I", data, at + 4)[0] == kind:
            yield struct.unpack_from("<QQ", data, at + 24)


def _overwrite(data: bytearray, address: int, code: bytes) -> None:
    """Write machine code at an address of the loaded library."""
    offset, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for index in range(count):
        kind, _, start, virtual, _, n_bytes = struct.unpack_from("<IIQQQQ", data, offset + index * size)
        if kind == 1 and virtual <= address < virtual + n_bytes:  # PT_LOAD
            data[start + address - virtual : start + address - virtual + len(code)] = code
            return
    raise AssertionError(f"no segment has {address:#x}")


def copy_package(folder: Path, *, libraries: bool = False) -> Path:
    """Copy llama-cpp-python's Python files; return the folder for PYTHONPATH."""
    target = folder / "llama_cpp"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("lib", "__pycache__", "server"))
    if libraries:
        shutil.copytree(LIBRARIES, target / "lib")
    return folder


def environment(*, libraries: Path | str | None = None, path: Path | None = None, **others: str) -> dict[str, str]:
    """Return the environment of a process with broken libraries, or a broken package."""
    found = {name: value for name, value in os.environ.items() if name not in ("LLAMA_CPP_LIB_PATH", "PYTHONPATH")}
    if libraries is not None:
        found["LLAMA_CPP_LIB_PATH"] = str(libraries)
    if path is not None:
        found["PYTHONPATH"] = str(path)
    return {**found, **others}


BLOCKER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llama_cpp":
            raise ModuleNotFoundError("No module named 'llama_cpp'", name="llama_cpp")

sys.meta_path.insert(0, Blocked())
"""
is_linux = sys.platform.startswith("linux")
