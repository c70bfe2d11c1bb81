"""List the files in folders and zips without following links, and read them with a size limit."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import zipfile
import zlib
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from labkit.errors import GradingError
from labkit.grading.untrusted_text import visible

MAX_BYTES = 20 << 20
_MAX_ENTRIES = 100_000
_MAX_ZIP_BYTES = 200 << 20
_UNREADABLE = (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError, EOFError, zlib.error)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in a folder or in a zip."""

    parts: tuple[str, ...]  # of its path relative to the submissions; a zip counts as a folder
    modified_s: float  # since the epoch
    path: Path  # the file, or the zip that contains it
    members: tuple[str, ...] = ()  # its name in the zip, preceded by that of an inner zip if there is one

    @property
    def label(self) -> str:
        """The path, for display."""
        return visible("/".join(self.parts))

    def read(self) -> bytes:
        """Return the content; raise `GradingError` if it is too large or cannot be read."""
        if not self.members:
            return _read_file(self.path)
        file: Path | io.BytesIO = self.path
        try:
            for member in self.members[:-1]:
                with zipfile.ZipFile(file) as archive:
                    file = io.BytesIO(_read_member(archive, member, _MAX_ZIP_BYTES))
            with zipfile.ZipFile(file) as archive:
                return _read_member(archive, self.members[-1], MAX_BYTES)
        except GradingError:
            raise
        except _UNREADABLE as error:
            raise GradingError(f"{self.label} cannot be read: {type(error).__name__}") from None


def entries_in(place: Path) -> tuple[list[Entry], list[str]]:
    """Return the files of a folder or a zip, and messages about what was skipped."""
    problems: list[str] = []
    if place.is_file():
        return _zip_entries(Entry((), 0.0, place), problems), problems
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
                found += _zip_entries(Entry((*parts[:-1], name[:-4]), status.st_mtime, path), problems)
            else:
                found.append(Entry(parts, status.st_mtime, path))
        if len(found) > _MAX_ENTRIES:
            problems.append(f"more than {_MAX_ENTRIES:,} files: the rest was skipped")
            break
    return found, problems


def _zip_entries(entry: Entry, problems: list[str], outer: zipfile.ZipFile | None = None) -> list[Entry]:
    """List the files of a zip, which may be in another one (but no deeper), including those of zips in it."""
    label = entry.label or entry.path.name
    found: list[Entry] = []
    try:
        file = entry.path if outer is None else io.BytesIO(_read_member(outer, entry.members[-1], _MAX_ZIP_BYTES))
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            if len(infos) > _MAX_ENTRIES:
                raise ValueError("too many members")
            for info in infos:
                name = PurePosixPath(info.filename.replace("\\", "/"))
                if info.is_dir():
                    continue
                if name.is_absolute() or ".." in name.parts or not name.parts:
                    problems.append(f"{label}: a member whose path leaves the folder; skipped")
                    continue
                is_zip = name.suffix.lower() == ".zip" and outer is None
                parts = (*entry.parts, *(name.with_suffix("") if is_zip else name).parts)
                inner = Entry(parts, _modified_s(info), entry.path, (*entry.members, info.filename))
                found += _zip_entries(inner, problems, archive) if is_zip else [inner]
    except _UNREADABLE as error:
        problems.append(f"{label}: not a valid zip ({type(error).__name__})")
        return []
    return found


def _modified_s(info: zipfile.ZipInfo) -> float:
    try:
        return datetime(*info.date_time, tzinfo=timezone.utc).timestamp()
    except ValueError:
        return 0.0


def _read_member(archive: zipfile.ZipFile, member: str, max_bytes: int) -> bytes:
    """Read a member up to a size, regardless of the size in the zip's directory."""
    with archive.open(member) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise GradingError(f"{visible(member[:100])} is larger than {max_bytes >> 20} MB")
    return content


def _read_file(path: Path) -> bytes:
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(number, "rb") as stream:
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise GradingError(f"{path.name} is not a regular file")
            if status.st_size > MAX_BYTES:
                raise GradingError(f"the file is larger than {MAX_BYTES >> 20} MB: clear its outputs and submit it again")
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise GradingError(f"{path.name} cannot be read: {error.strerror}") from None
