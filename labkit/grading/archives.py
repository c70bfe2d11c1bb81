"""List the files in folders and zips without following links, and read them with a size limit."""

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

__all__ = ["MAX_BYTES", "Entry", "entries_in"]

MAX_BYTES = 20 << 20
_MAX_ENTRIES = 100_000
_MAX_ZIP_BYTES = 200 << 20


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in a folder or in a zip.

    Parameters
    ----------
    parts : tuple of str
        Parts of its path relative to the submissions; a zip counts as a folder.
    modified_s : float
        Modification time, in seconds since the epoch.
    path : Path
        The file, or the zip that contains it.
    members : tuple of str
        Member name in the zip, preceded by that of an inner zip if there is one.
    """

    parts: tuple[str, ...]
    modified_s: float
    path: Path
    members: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The path, for display."""
        return visible("/".join(self.parts))

    def read(self) -> bytes:
        """Return the content.

        Raises
        ------
        GradingError
            If it is too large or cannot be read.
        """
        if not self.members:
            return _read_file(self.path, MAX_BYTES)
        try:
            content = self.path
            for member in self.members[:-1]:
                with zipfile.ZipFile(_opened(content)) as archive:
                    content = _read_member(archive, member, _MAX_ZIP_BYTES)  # type: ignore[assignment]
            with zipfile.ZipFile(_opened(content)) as archive:
                return _read_member(archive, self.members[-1], MAX_BYTES)
        except GradingError:
            raise
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError) as error:
            raise GradingError(f"{self.label} cannot be read: {type(error).__name__}") from None


def entries_in(place: Path) -> tuple[list[Entry], list[str]]:
    """Return the files of a folder or a zip, and messages about what was skipped."""
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
                kind = "a link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
                problems.append(f"{visible('/'.join(parts))}: {kind}; skipped")
            elif name.lower().endswith(".zip"):
                found += _zip_entries(path, (*parts[:-1], name[:-4]), problems)
            else:
                found.append(Entry(parts, status.st_mtime, path))
        if len(found) > _MAX_ENTRIES:
            problems.append(f"more than {_MAX_ENTRIES:,} files: the rest was skipped")
            break
    return found, problems


def _zip_entries(path: Path, parts: tuple[str, ...], problems: list[str]) -> list[Entry]:
    """List the files of a zip, including those of zips in it."""
    label = visible("/".join(parts)) or path.name
    try:
        with zipfile.ZipFile(path) as archive:
            return _members(archive, path, parts, (), problems)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        problems.append(f"{label}: not a valid zip ({type(error).__name__})")
        return []


def _members(
    archive: zipfile.ZipFile, path: Path, parts: tuple[str, ...], above: tuple[str, ...], problems: list[str]
) -> list[Entry]:
    found: list[Entry] = []
    infos = archive.infolist()
    if len(infos) > _MAX_ENTRIES:
        raise ValueError("too many members")
    for info in infos:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if info.is_dir() or name.is_absolute() or ".." in name.parts or not name.parts:
            if not info.is_dir():
                problems.append(f"{visible('/'.join(parts))}: a member whose path leaves the folder; skipped")
            continue
        inner = (*parts, *name.parts)
        if name.suffix.lower() == ".zip" and not above:
            found += _inner_zip(archive, info, path, (*inner[:-1], name.stem), problems)
        else:
            found.append(Entry(inner, _modified_s(info), path, (*above, info.filename)))
    return found


def _inner_zip(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, parts: tuple[str, ...], problems: list[str]
) -> list[Entry]:
    try:
        with zipfile.ZipFile(io.BytesIO(_read_member(archive, info.filename, _MAX_ZIP_BYTES))) as inner:
            return _members(inner, path, parts, (info.filename,), problems)
    except (GradingError, OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        problems.append(f"{visible('/'.join(parts))}: not a valid zip ({type(error).__name__})")
        return []


def _modified_s(info: zipfile.ZipInfo) -> float:
    try:
        return datetime(*info.date_time, tzinfo=timezone.utc).timestamp()
    except ValueError:
        return 0.0


def _opened(content: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content


def _read_member(archive: zipfile.ZipFile, member: str, max_bytes: int) -> bytes:
    """Read a member up to a size, regardless of the size in the zip's directory."""
    with archive.open(member) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise GradingError(f"{visible(member[:100])} is larger than {max_bytes >> 20} MB")
    return content


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(number, "rb") as stream:
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise GradingError(f"{path.name} is not a regular file")
            if status.st_size > max_bytes:
                raise GradingError(f"the file is larger than {max_bytes >> 20} MB: clear its outputs and submit it again")
            return stream.read(max_bytes + 1)
    except OSError as error:
        raise GradingError(f"{path.name} cannot be read: {error.strerror}") from None
