"""Find what a class handed in: a folder a student, zips, and the names that Moodle, Canvas and nbgrader give.

Nothing is unpacked to disk and no link is followed; sizes are looked at before anything is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from labkit.errors import ArgumentError
from labkit.grading.archives import Entry, entries_in
from labkit.grading.untrusted_text import visible

__all__ = ["Found", "Submission", "find_submissions"]

_CANVAS = re.compile(r"^(?P<student>[^_]+)_(?:LATE_)?(?P<user>\d+)_(?P<number>\d+)_(?P<file>.+)$")
_MOODLE = re.compile(r"^(?P<student>.+?)_(?P<user>\d+)_assignsubmission_file(?:_(?P<file>.*))?$")
_COPY = re.compile(r"(?:[-_ ]?\(\d+\)|-\d+| - Copy| copy)+$", re.IGNORECASE)
_IGNORED = {"__MACOSX", ".ipynb_checkpoints", ".git", "__pycache__"}


@dataclasses.dataclass(frozen=True)
class Submission:
    """A notebook that a student handed in.

    Parameters
    ----------
    student : str
        A name that is safe for files; the same student's notebooks have the same.
    display_name : str
        As it was found; a stranger's text.
    notebook : str
        Which of the course's it is.
    entry : Entry
        Where it stands.
    """

    student: str
    display_name: str
    notebook: str
    entry: Entry


@dataclasses.dataclass(frozen=True)
class Found:
    """What was handed in.

    Parameters
    ----------
    submissions : tuple of Submission
        One a student and notebook, the newest.
    problems : tuple of str
        What could not be placed, and which older ones were left aside.
    """

    submissions: tuple[Submission, ...]
    problems: tuple[str, ...]


def find_submissions(place: str | Path, notebooks: Collection[str]) -> Found:
    """Find submissions of some notebooks.

    Parameters
    ----------
    place : path
        A folder, or a zip.
    notebooks : collection of str
        Their names, without .ipynb.

    Raises
    ------
    ArgumentError
        When there is no such folder or zip.
    """
    folder = Path(place).expanduser()
    if not folder.exists():
        raise ArgumentError(f"there is no folder {folder}: name the one with the submissions")
    entries, problems = entries_in(folder)
    newest: dict[tuple[str, str], Submission] = {}
    for entry in sorted(entries, key=lambda entry: (entry.stamp, entry.label)):
        found = _place(entry, notebooks)
        if isinstance(found, Submission):
            older = newest.get((found.student, found.notebook))
            problems += [f"{older.entry.label}: an older one of {older.display_name}; left aside"] if older else []
            newest[found.student, found.notebook] = found
        elif found:
            problems.append(found)
    if not newest:
        problems.append(
            f"{folder}: no notebook to grade; a student's folder has one that is called {' or '.join(sorted(notebooks))}"
        )
    return Found(tuple(newest[key] for key in sorted(newest)), tuple(sorted(problems)))


def _place(entry: Entry, notebooks: Collection[str]) -> Submission | str | None:
    """Return whose and which a file is, or why that cannot be said; nothing for a file that is of no interest."""
    parts = [part for part in entry.parts if part != "submitted"]
    if not entry.parts[-1].lower().endswith(".ipynb") or _IGNORED & set(parts):
        return None
    student, file_name = _student(parts)
    notebook = _notebook(file_name, notebooks)
    if notebook is None and len(parts) > 2:  # nbgrader's layout: the folder names the assignment
        notebook = _notebook(parts[-2], notebooks)
    if student is None:
        return f"{entry.label}: cannot be placed: neither its folder nor its name tells whose it is"
    if notebook is None:
        return f"{entry.label}: cannot be placed: it is none of {', '.join(sorted(notebooks))}"
    return Submission(_safe(student), visible(student), notebook, entry)


def _student(parts: list[str]) -> tuple[str | None, str]:
    """Return the student and the name of the file as it was before a learning system changed it."""
    for text in (parts[0], parts[-1]):
        if match := _MOODLE.match(text):
            return f"{match['student']} {match['user']}", match["file"] if len(parts) == 1 else parts[-1]
    if match := _CANVAS.match(parts[0]):
        return f"{match['student']} {match['user']}", match["file"] if len(parts) == 1 else parts[-1]
    return (parts[0] if len(parts) > 1 else None), parts[-1]


def _notebook(file_name: str, notebooks: Iterable[str]) -> str | None:
    stem = re.sub(r"\.ipynb$", "", file_name, flags=re.IGNORECASE)
    names = {name.casefold(): name for name in notebooks}
    return names.get(stem.casefold()) or names.get(_COPY.sub("", stem).casefold())


def _safe(name: str) -> str:
    """Return a name for files: letters, digits and a few marks; a name that had others gets a number of its own."""
    safe = re.sub(r"[^A-Za-z0-9@+-]+", "_", name).strip("_")[:60]
    if safe == name:
        return safe
    return f"{safe or 'student'}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:6]}"
