"""Checks before a file is written (folder, existing file, disk space), and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from labkit.checks import check_flag, one_line, shown
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.units import format_bytes


def new_file(target: str | Path, *, overwrite: bool) -> Path:
    """Return the path for a new file; refuse a folder, a missing folder, and a file that may not be replaced."""
    if not isinstance(target, (str, Path)):
        raise ArgumentTypeError(f"target must be a path, not {type(target).__name__}: give the file to write")
    try:
        path = user_path(target)
        path = path.parent.resolve() / path.name
        in_a_folder, is_folder = path.parent.is_dir(), path.is_dir()
    except OSError as error:
        raise ArgumentError(f"target={shown(target)} is not a possible file name: {one_line(error)}") from error
    if not in_a_folder:
        raise ArgumentError(f"folder {path.parent} does not exist: create it first")
    if is_folder:
        raise ArgumentError(f"the target {path} is a folder: give a file in it")
    if not check_flag("overwrite", overwrite):
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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk into an `ArgumentError` of one line that names the file and what to do."""
    try:
        yield
    except OSError as error:
        advice = "choose a folder that you may write to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "free disk space and run the command again"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            advice = "a file is where a folder is needed, or the reverse: choose another name"
        raise ArgumentError(f"{path} cannot be written: {error.strerror or error}: {advice}") from error


def write_all(files: Mapping[Path, str | bytes]) -> None:
    """Write files, all or none: first under temporary names in the same folders, as the same bytes on every system."""
    temporary: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary[path] = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
                raw = content if isinstance(content, bytes) else content.encode("utf-8", errors="backslashreplace")
                temporary[path].write_bytes(raw)
        for path, new in temporary.items():
            with writing(path):
                new.replace(path)
    finally:
        for new in temporary.values():
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically."""
    write_all({path: content})


def user_path(given: str | Path) -> Path:
    """Return a path with ``~`` expanded."""
    if not isinstance(given, (str, Path)):
        raise ArgumentTypeError(f"a path is text or a Path, not {shown(given)}")
    try:
        if b"\0" in os.fsencode(given):
            raise ArgumentError(f"{shown(given)} is not a path: it has a null character")
        return Path(given).expanduser()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{shown(given)} is not a path: {one_line(error)}") from None
    except RuntimeError as error:
        raise ArgumentError(f"{given} cannot be found: {error}") from None


def written(document: str, path: str | Path | None) -> str:
    """Write a document to a file, if a path is given, and return it."""
    if path is not None:
        with writing(Path(path)):
            user_path(path).write_text(document, encoding="utf-8")
    return document
