"""Files in folders and zips, listed without following links, and read with a limit."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import zipfile
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from labkit.errors import GradingError
from labkit.grading.untrusted_text import visible

__all__ = ["MOST_BYTES", "Entry", "entries_in"]

MOST_BYTES = 20 << 20
_MOST_ENTRIES = 100_000
_MOST_ZIP_BYTES = 200 << 20


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in a folder or in a zip.

    Parameters
    ----------
    parts : tuple of str
        Of its path below what was handed in; a zip counts as a folder.
    stamp : float
        When it was changed last.
    path : Path
        Of the file, or of the zip.
    members : tuple of str
        In the zip, and in a zip in that.
    """

    parts: tuple[str, ...]
    stamp: float
    path: Path
    members: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The path as people read it."""
        return visible("/".join(self.parts))

    def read(self) -> bytes:
        """Return its content.

        Raises
        ------
        GradingError
            When it is too large, or cannot be read.
        """
        if not self.members:
            return _read_file(self.path, MOST_BYTES)
        try:
            content = self.path
            for member in self.members[:-1]:
                with zipfile.ZipFile(_opened(content)) as archive:
                    content = _read_member(archive, member, _MOST_ZIP_BYTES)  # type: ignore[assignment]
            with zipfile.ZipFile(_opened(content)) as archive:
                return _read_member(archive, self.members[-1], MOST_BYTES)
        except GradingError:
            raise
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError) as error:
            raise GradingError(f"{self.label} cannot be read: {type(error).__name__}") from None


def entries_in(place: Path) -> tuple[list[Entry], list[str]]:
    """Return the files of a folder or a zip, and what of it was not looked at."""
    problems: list[str] = []
    if place.is_file():
        return _zip_entries(place, (), problems), problems
    found: list[Entry] = []
    for folder, folders, names in os.walk(place, followlinks=False):
        for name in sorted([*names, *(name for name in folders if Path(folder, name).is_symlink())]):
            path = Path(folder, name)
            parts = path.relative_to(place).parts
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                kind = "a link" if stat.S_ISLNK(status.st_mode) else "no plain file"
                problems.append(f"{visible('/'.join(parts))}: {kind}; it is not followed or opened")
            elif name.lower().endswith(".zip"):
                found += _zip_entries(path, (*parts[:-1], name[:-4]), problems)
            else:
                found.append(Entry(parts, status.st_mtime, path))
        if len(found) > _MOST_ENTRIES:
            problems.append(f"more than {_MOST_ENTRIES:,} files: the others were not looked at")
            break
    return found, problems


def _zip_entries(path: Path, parts: tuple[str, ...], problems: list[str]) -> list[Entry]:
    """List a zip's files, and those of zips in it."""
    label = visible("/".join(parts)) or path.name
    try:
        with zipfile.ZipFile(path) as archive:
            return _members(archive, path, parts, (), problems)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        problems.append(f"{label}: no sound zip ({type(error).__name__})")
        return []


def _members(
    archive: zipfile.ZipFile, path: Path, parts: tuple[str, ...], above: tuple[str, ...], problems: list[str]
) -> list[Entry]:
    found: list[Entry] = []
    infos = archive.infolist()
    if len(infos) > _MOST_ENTRIES:
        raise ValueError("too many members")
    for info in infos:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if info.is_dir() or name.is_absolute() or ".." in name.parts or not name.parts:
            if not info.is_dir():
                problems.append(f"{visible('/'.join(parts))}: a member whose path leads elsewhere; not looked at")
            continue
        inner = (*parts, *name.parts)
        if name.suffix.lower() == ".zip" and not above:
            found += _inner_zip(archive, info, path, (*inner[:-1], name.stem), problems)
        else:
            found.append(Entry(inner, _stamp(info), path, (*above, info.filename)))
    return found


def _inner_zip(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, parts: tuple[str, ...], problems: list[str]
) -> list[Entry]:
    try:
        with zipfile.ZipFile(io.BytesIO(_read_member(archive, info.filename, _MOST_ZIP_BYTES))) as inner:
            return _members(inner, path, parts, (info.filename,), problems)
    except (GradingError, OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        problems.append(f"{visible('/'.join(parts))}: no sound zip ({type(error).__name__})")
        return []


def _stamp(info: zipfile.ZipInfo) -> float:
    try:
        return datetime(*info.date_time, tzinfo=timezone.utc).timestamp()
    except ValueError:
        return 0.0


def _opened(content: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content


def _read_member(archive: zipfile.ZipFile, member: str, most: int) -> bytes:
    """Read a member up to a size, whatever size it claims."""
    with archive.open(member) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise GradingError(f"{visible(member[:100])} is larger than {most >> 20} MB")
    return content


def _read_file(path: Path, most: int) -> bytes:
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(number, "rb") as stream:
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise GradingError(f"{path.name} is no plain file")
            if status.st_size > most:
                raise GradingError(f"the file is larger than {most >> 20} MB: clear its outputs and hand it in again")
            return stream.read(most + 1)
    except OSError as error:
        raise GradingError(f"{path.name} cannot be read: {error.strerror}") from None
