"""List the files in folders and zips without following links, and read them with a size limit."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path, PurePosixPath

from labkit.errors import GradingError
from labkit.grading.untrusted_text import visible

MAX_BYTES = 20 << 20
_MAX_ENTRIES = 100_000
_MAX_ZIP_BYTES = 200 << 20
_MAX_DEPTH = 4  # a zip of downloads, each with a student's zip in it, and one to spare
_MAX_RATIO = 20  # a zip in a zip hardly gets smaller, unless it is made to fill memory
_ENCRYPTED, _UTF8_FLAG, _UNIX_TIMES, _UNICODE_PATH = 1, 0x800, 0x5455, 0x7075  # of the zip format
_UNREADABLE = (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError, EOFError, zlib.error)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in a folder or in a zip."""

    parts: tuple[str, ...]  # of its path relative to the submissions, in Unicode's composed form; a zip counts as a folder
    modified_s: float  # since the epoch
    path: Path  # the file, or the zip that contains it
    members: tuple[int, ...] = ()  # its number in the zip, preceded by those of the zips around it
    fault: str = ""  # why it cannot be opened
    archives: tuple[int, ...] = ()  # the indices of those parts that are zips

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
            for number in self.members[:-1]:
                with zipfile.ZipFile(file) as archive:
                    file = io.BytesIO(_read_member(archive, number, _MAX_ZIP_BYTES))
            with zipfile.ZipFile(file) as archive:
                return _read_member(archive, self.members[-1], MAX_BYTES)
        except GradingError:
            raise
        except _UNREADABLE as error:
            raise GradingError(f"{self.label} cannot be read: {type(error).__name__}") from None


def entries_in(place: Path, zone: tzinfo | None = None) -> tuple[list[Entry], list[str]]:
    """Return the files of a folder or a zip, and messages about what was skipped.

    Zips store local times; ``zone`` is the time zone where they were made, by default this machine's.
    """
    problems: list[str] = []
    found: list[Entry] = []
    for entry in _files(place, problems):
        opened = [entry]
        if entry.path == place or entry.path.name.lower().endswith(".zip"):
            parts = () if entry.path == place else (*entry.parts[:-1], entry.parts[-1][:-4])
            outer = dataclasses.replace(entry, archives=(len(parts) - 1,) if parts else ())
            opened = _zip_entries(outer, parts, entry.path, zone, problems)
        found += opened[: _MAX_ENTRIES - len(found)]
        if len(found) >= _MAX_ENTRIES:
            problems.append(f"more than {_MAX_ENTRIES:,} files: the rest was skipped")
            break
    return found, problems


def _files(place: Path, problems: list[str]) -> Iterator[Entry]:
    """Yield the regular files below a folder, or the file itself."""
    if place.is_file():
        yield Entry((place.name,), place.stat().st_mtime, place)
        return

    def not_listed(error: OSError) -> None:
        name = os.path.relpath(error.filename or place, place)
        problems.append(f"{visible(name)}: the folder cannot be read ({error.strerror}); skipped")

    for folder, folders, names in os.walk(place, followlinks=False, onerror=not_listed):
        folders.sort()
        for name in sorted([*names, *(name for name in folders if Path(folder, name).is_symlink())]):
            path = Path(folder, name)
            parts = tuple(map(_composed, path.relative_to(place).parts))
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield Entry(parts, status.st_mtime, path)
            else:
                kind = "a link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
                problems.append(f"{visible('/'.join(parts))}: {kind}; skipped")


def _zip_entries(
    entry: Entry, place: tuple[str, ...], file: Path | io.BytesIO, zone: tzinfo | None, problems: list[str]
) -> list[Entry]:
    """List the files of a zip, and of zips in it; one that cannot be opened is itself an entry."""
    found: list[Entry] = []
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            if len(infos) > _MAX_ENTRIES:
                raise ValueError("too many members")
            for number, info in enumerate(infos):
                name = PurePosixPath(_member_name(info).replace("\\", "/"))
                if info.is_dir() or info.filename.endswith("\\"):
                    continue
                if name.is_absolute() or ".." in name.parts or not name.parts:
                    problems.append(f"{entry.label}: a member whose path leaves the folder; skipped")
                    continue
                parts, members = (*place, *name.parts), (*entry.members, number)
                inner = Entry(parts, _modified_s(info, zone), entry.path, members, archives=entry.archives)
                if info.flag_bits & _ENCRYPTED:
                    found.append(dataclasses.replace(inner, fault="encrypted"))
                elif name.suffix.lower() == ".zip" and len(members) < _MAX_DEPTH:
                    inner = dataclasses.replace(inner, archives=(*entry.archives, len(parts) - 1))
                    if info.file_size > _MAX_RATIO * info.compress_size + MAX_BYTES:
                        found.append(dataclasses.replace(inner, fault="a zip that is made to fill memory"))
                        continue
                    content = io.BytesIO(_read_member(archive, number, _MAX_ZIP_BYTES))
                    found += _zip_entries(inner, (*parts[:-1], name.stem), content, zone, problems)
                else:
                    found.append(inner)
                if len(found) > _MAX_ENTRIES:
                    break
    except _UNREADABLE as error:
        reason = str(error) if isinstance(error, GradingError) else type(error).__name__
        return [dataclasses.replace(entry, fault=f"not a valid zip ({reason})")]
    return found


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _member_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name; without the flag for UTF-8, Python reads names as code page 437, but many are UTF-8."""
    if info.flag_bits & _UTF8_FLAG:
        return _composed(info.filename)
    if unicode_path := _extra(info, _UNICODE_PATH)[5:]:  # after a version and a checksum
        return _composed(unicode_path.decode("utf-8", errors="replace"))
    try:
        return _composed(info.filename.encode("cp437").decode("utf-8"))
    except UnicodeError:
        return _composed(info.filename)


def _modified_s(info: zipfile.ZipInfo, zone: tzinfo | None) -> float:
    """Return a member's time: in UTC if the zip has it, otherwise its local time in the given zone."""
    times = _extra(info, _UNIX_TIMES)
    if len(times) >= 5 and times[0] & 1:
        return float(struct.unpack("<i", times[1:5])[0])
    try:
        return datetime(*info.date_time, tzinfo=zone).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _extra(info: zipfile.ZipInfo, kind: int) -> bytes:
    """Return an extra field of a zip's member; empty if it has none."""
    rest = info.extra
    while len(rest) >= 4:
        found, size = struct.unpack("<HH", rest[:4])
        if found == kind:
            return rest[4 : 4 + size]
        rest = rest[4 + size :]
    return b""


def _read_member(archive: zipfile.ZipFile, number: int, max_bytes: int) -> bytes:
    """Read a member up to a size, regardless of the size in the zip's directory."""
    info = archive.infolist()[number]
    with archive.open(info) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise GradingError(f"{visible(info.filename[:100])} is larger than {max_bytes >> 20} MB")
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
