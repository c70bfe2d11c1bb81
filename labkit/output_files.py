"""Checks before a file is written (folder, existing file, disk space), and atomic writes."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.units import format_bytes


def new_file(target: str | Path, *, overwrite: bool) -> Path:
    """Return the path for a new file; refuse a folder, a missing folder, and a file that may not be replaced."""
    if not isinstance(target, (str, Path)):
        raise ArgumentTypeError(f"target must be a path, not {type(target).__name__}: give the file to write")
    path = Path(target).expanduser()
    path = path.parent.resolve() / path.name
    if not path.parent.is_dir():
        raise ArgumentError(f"folder {path.parent} does not exist: create it first")
    if path.is_dir():
        raise ArgumentError(f"the target {path} is a folder: give a file in it")
    if not overwrite:
        refuse_existing(path)
    return path


def refuse_existing(path: Path) -> None:
    """Raise `ArgumentError` if the file exists."""
    if path.exists():
        raise ArgumentError(
            f"{path} already exists: give another file, or replace it with overwrite=True (--overwrite on the command line)"
        )


def check_disk_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raise `ArgumentError` if a folder's disk has less free space than ``what`` needs."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise ArgumentError(
            f"{what} needs about {format_bytes(n_bytes)}, but {folder} has {format_bytes(free)} free: "
            "free disk space, or write elsewhere"
        )


@contextlib.contextmanager
def temporary_sibling(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder, to write and move over ``path``; a file left there at the end is removed."""
    temporary = path.parent / f".labkit-{uuid.uuid4().hex}.gguf"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a text atomically, through a temporary file in the same folder, as the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def written(document: str, path: str | Path | None) -> str:
    """Write a document to a file, if a path is given, and return it."""
    if path is not None:
        try:
            Path(path).expanduser().write_text(document, encoding="utf-8")
        except OSError as error:
            raise ArgumentError(f"{path} cannot be written: {error.strerror or error}") from error
    return document
