"""Where a new file goes: a folder that is there, a name that is free, room on the disk; written whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.units import format_bytes

__all__ = ["check_room", "new_file", "refuse_existing", "temporary_beside", "write_whole", "written"]


def new_file(target: str | Path, *, overwrite: bool) -> Path:
    """Return the path of a file to write.

    Raises
    ------
    ArgumentError
        When its folder is missing, when it is a folder itself, or when it exists and may not be replaced.
    ArgumentTypeError
        When it is no path.
    """
    if not isinstance(target, (str, Path)):
        raise ArgumentTypeError(f"target is a path, not {type(target).__name__}: name the file to write")
    path = Path(target).expanduser()
    path = path.parent.resolve() / path.name
    if not path.parent.is_dir():
        raise ArgumentError(f"there is no folder {path.parent}: make it first")
    if path.is_dir():
        raise ArgumentError(f"the target {path} is a folder: name a file in it")
    if not overwrite:
        refuse_existing(path)
    return path


def refuse_existing(path: Path) -> None:
    """Raise `ArgumentError` where a file exists that may not be replaced."""
    if path.exists():
        raise ArgumentError(
            f"{path} exists already: name another file, or pass overwrite=True (--overwrite as a command) to replace it"
        )


def check_room(folder: Path, n_bytes: int, what: str) -> None:
    """Raise `ArgumentError` where a folder's disk has less room than ``what`` needs."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise ArgumentError(
            f"{what} needs about {format_bytes(n_bytes)} and {folder} has {format_bytes(free)} free: "
            "make room, or write elsewhere"
        )


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Give a name in the same folder, to be written and moved over ``path``; what is left of it in the end is removed."""
    temporary = path.parent / f".labkit-{uuid.uuid4().hex}.gguf"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text beside its place and move it there, whole or not at all, as the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def written(document: str, path: str | Path | None) -> str:
    """Write a document to a file, if one is named, and return it."""
    if path is not None:
        try:
            Path(path).expanduser().write_text(document, encoding="utf-8")
        except OSError as error:
            raise ArgumentError(f"{path} cannot be written: {error.strerror or error}") from error
    return document
