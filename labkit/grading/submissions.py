"""Find a class's submissions: one folder per student, zips, and the file names of Moodle, Canvas and nbgrader.

Nothing is unpacked to disk, no link is followed, and sizes are checked before reading.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from labkit.cache import sha256
from labkit.errors import ArgumentError
from labkit.grading.archives import Entry, entries_in
from labkit.grading.untrusted_text import visible

_CANVAS = re.compile(r"^(?P<student>[^_]+)_(?:LATE_)?(?P<user>\d+)_(?P<number>\d+)_(?P<file>.+)$")
_MOODLE = re.compile(r"^(?P<student>.+?)_(?P<user>\d+)_assignsubmission_file(?:_(?P<file>.*))?$")
_COPY = re.compile(r"(?:[-_ ]?\(\d+\)|-\d+| - Copy| copy)+$", re.IGNORECASE)
_IGNORED = {"__MACOSX", ".ipynb_checkpoints", ".git", "__pycache__"}


@dataclasses.dataclass(frozen=True)
class Submission:
    """A submitted notebook."""

    student: str  # safe for file names; equal for all notebooks of the student
    display_name: str  # as found; untrusted text
    notebook: str
    entry: Entry


@dataclasses.dataclass(frozen=True)
class Found:
    """The latest submission per student and notebook, and messages about skipped files and older submissions."""

    submissions: tuple[Submission, ...]
    problems: tuple[str, ...]


def find_submissions(place: str | Path, notebooks: Collection[str]) -> Found:
    """Find the submissions of given notebooks (names without .ipynb) in a folder or a zip."""
    folder = Path(place).expanduser()
    if not folder.exists():
        raise ArgumentError(f"{folder} not found: name the folder or zip with the submissions")
    entries, problems = entries_in(folder)
    newest: dict[tuple[str, str], Submission] = {}
    for entry in sorted(entries, key=lambda entry: (entry.modified_s, entry.label)):
        found = _identify(entry, notebooks)
        if isinstance(found, Submission):
            older = newest.get((found.student, found.notebook))
            problems += [f"{older.entry.label}: an older submission of {older.display_name}; ignored"] if older else []
            newest[found.student, found.notebook] = found
        elif found:
            problems.append(found)
    if not newest:
        problems.append(
            f"{folder}: no notebook to grade; a student's folder needs one named {' or '.join(sorted(notebooks))}"
        )
    return Found(tuple(newest[key] for key in sorted(newest)), tuple(sorted(problems)))


def _identify(entry: Entry, notebooks: Collection[str]) -> Submission | str | None:
    """Return a file's student and notebook, or why they are unknown; None for a file that is not a notebook."""
    parts = [part for part in entry.parts if part != "submitted"]
    if not entry.parts[-1].lower().endswith(".ipynb") or _IGNORED & set(parts):
        return None
    student, file_name = _student(parts)
    notebook = _notebook(file_name, notebooks)
    if notebook is None and len(parts) > 2:  # nbgrader's layout: the folder names the assignment
        notebook = _notebook(parts[-2], notebooks)
    if student is None:
        return f"{entry.label}: skipped: neither the folder nor the file name identifies the student"
    if notebook is None:
        return f"{entry.label}: skipped: not one of the notebooks {', '.join(sorted(notebooks))}"
    return Submission(_safe(student), visible(student), notebook, entry)


def _student(parts: list[str]) -> tuple[str | None, str]:
    """Return the student and the file name, without what a learning system added to it."""
    for pattern, text in ((_MOODLE, parts[0]), (_MOODLE, parts[-1]), (_CANVAS, parts[0])):
        if match := pattern.match(text):
            return f"{match['student']} {match['user']}", match["file"] if len(parts) == 1 else parts[-1]
    return (parts[0] if len(parts) > 1 else None), parts[-1]


def _notebook(file_name: str, notebooks: Iterable[str]) -> str | None:
    stem = re.sub(r"\.ipynb$", "", file_name, flags=re.IGNORECASE)
    names = {name.casefold(): name for name in notebooks}
    return names.get(stem.casefold()) or names.get(_COPY.sub("", stem).casefold())


def _safe(name: str) -> str:
    """Return a name that is safe for files; if characters were replaced, a hash makes it unique."""
    safe = re.sub(r"[^A-Za-z0-9@+-]+", "_", name).strip("_")[:60]
    if safe == name:
        return safe
    return f"{safe or 'student'}-{sha256(name)[:6]}"
