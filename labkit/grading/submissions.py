"""Find a class's submissions: who handed in which notebook, which one is the newest, and what is not a notebook.

Nothing is unpacked to disk, no link is followed, and sizes are checked before reading.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path

from labkit.cache import sha256
from labkit.errors import ArgumentError, GradingError
from labkit.grading.archives import Entry, entries_in
from labkit.grading.learning_systems import Found, LearningSystems, Person, merge
from labkit.grading.notebook_names import by_cells, by_name
from labkit.grading.student_level import student_level
from labkit.grading.untrusted_text import visible
from labkit.output_files import user_path

_IGNORED_FOLDERS = {
    "__MACOSX", ".ipynb_checkpoints", ".git", "__pycache__", ".virtual_documents", "site-packages", "node_modules",
}  # fmt: skip  # labkit's own package has the course
# released, written by a prediction box, or made by Windows
_IGNORED_FILES = {"manifest.json", "exercises.py", "agents.md", "guesses.json", "thumbs.db", "desktop.ini"}
_UNKNOWN = "skipped: neither the folder nor the file name identifies the student: use one folder per student"


@dataclasses.dataclass(frozen=True)
class Submission:
    """A submitted notebook."""

    student: str  # safe for file names; equal for all notebooks of the student
    display_name: str  # as found; untrusted text
    notebook: str
    entry: Entry


@dataclasses.dataclass(frozen=True)
class Student:
    """A student who handed in something."""

    student: str  # safe for file names
    display_name: str  # as found; untrusted text
    name: str  # without a number
    ids: frozenset[str]  # folder name, number or e-mail address: what a roster can have
    other_files: tuple[str, ...]  # that are not notebooks to grade


@dataclasses.dataclass(frozen=True)
class Class:
    """The newest submission per student and notebook, all students, and messages about skipped files and choices."""

    submissions: tuple[Submission, ...]
    students: tuple[Student, ...]
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _File:
    """A file of a student."""

    entry: Entry
    person: Person
    name: str  # below the student's folder
    notebook: str | None
    order: tuple[float, int, int, str]  # time, the learning system's number, number of the copy, path


def find_submissions(
    place: str | Path,
    notebooks: Collection[str],
    marks: Mapping[str, frozenset[str]] | None = None,
    *,
    zone: tzinfo | None = None,
    level: int | None = None,
    out: Path | None = None,
) -> Class:
    """Find the submissions of given notebooks (names without .ipynb) in a folder or a zip.

    ``marks`` identify notebooks by their cells. ``zone`` is the time zone of zips; ``level`` says which folder names the
    student: 1 is the topmost, 0 means that everything is from one student. What is below ``out``, the absolute path of the
    folder with the grades, is not a submission.
    """
    folder = user_path(place)
    if level is not None and level < 0:
        raise ArgumentError(f"student_level must be at least 0, not {level}")
    try:
        if not folder.exists():
            raise ArgumentError(f"{folder} not found: name the folder or zip with the submissions")
        entries, problems = entries_in(folder, zone)
        if out and out.is_relative_to(folder.resolve()):
            own = out.relative_to(folder.resolve()).parts
            if not own:
                raise ArgumentError(f"{out} has the submissions: choose another folder for the grades")
            entries = [entry for entry in entries if entry.parts[: len(own)] != own]
    except OSError as error:
        raise ArgumentError(f"{folder} cannot be read: {error.strerror or error}") from None
    files = _files(
        folder, [entry for entry in entries if not _is_ignored(entry.parts)], notebooks, marks or {}, level, problems
    )
    merged = merge([file.person for file in files])
    files = [dataclasses.replace(file, person=merged[file.person]) for file in files]
    keys = _keys({file.person for file in files})
    newest: dict[tuple[str, str], list[_File]] = {}
    for file in sorted(files, key=lambda file: file.order, reverse=True):
        if file.notebook is not None:
            newest.setdefault((keys[file.person], file.notebook), []).append(file)
    problems += [_choice(versions, zone) for versions in newest.values() if len(versions) > 1]
    chosen = tuple(
        Submission(student, _display(versions[0].person), notebook, versions[0].entry)
        for (student, notebook), versions in sorted(newest.items())
    )
    students = tuple(_students(files, keys))
    problems += [_not_notebooks(student, chosen) for student in students if student.other_files]
    if not newest:
        names = " or ".join(sorted(notebooks))
        problems.append(f"{folder}: no notebook to grade; a student's folder needs one named {names}")
    return Class(chosen, students, tuple(sorted(problems)))


def _is_ignored(parts: tuple[str, ...]) -> bool:
    name = parts[-1].lower()
    released_page = len(parts) > 1 and parts[-2] == "docs" and name.endswith(".md")
    return bool(_IGNORED_FOLDERS & set(parts)) or name.startswith(".") or name in _IGNORED_FILES or released_page


def _files(
    folder: Path,
    entries: Sequence[Entry],
    notebooks: Collection[str],
    marks: Mapping[str, frozenset[str]],
    level: int | None,
    problems: list[str],
) -> list[_File]:
    """Return the files of all students; those of unknown students become messages."""
    systems = LearningSystems(entries, problems)
    if level is None and folder.name == "submitted":
        level = 1
    owners = [systems.find(entry) if level is None else None for entry in entries]
    known = [(entry, owner) for entry, owner in zip(entries, owners, strict=True) if owner]
    plain = [
        (entry, *_notebook(entry, entry.parts[-1], notebooks, marks))
        for entry, owner in zip(entries, owners, strict=True)
        if not owner and not (level is None and systems.is_instructors(entry.parts))
    ]
    files = []
    for entry, owner in known:
        files += _owned(entry, owner, *_notebook(entry, owner.file_name, notebooks, marks))
    with_notebook = [(entry.parts, name) for entry, name, _ in plain if name]
    if level is None:
        level = 1 + student_level(with_notebook, notebooks)
    for entry, notebook, copy in plain:
        if level == 0 or (len(entry.parts) > level and (with_notebook or not known)):
            name = entry.parts[level - 1] if level else folder.resolve().name
            owner = Found((Person(name, ids=frozenset({name})),), level - 1, entry.parts[-1])
            files += _owned(entry, owner, notebook, copy)
        elif entry.fault or entry.parts[-1].lower().endswith(".ipynb"):
            problems.append(f"{entry.label}: {entry.fault or _UNKNOWN}")
    return files


def _owned(entry: Entry, owner: Found, notebook: str | None, copy: int) -> list[_File]:
    """Return a file once for each student who handed it in."""
    time = entry.modified_s if owner.submitted_s is None else owner.submitted_s
    name = "/".join(entry.parts[owner.level + 1 :]) or entry.parts[-1]
    return [_File(entry, person, name, notebook, (time, owner.number, copy, entry.label)) for person in owner.people]


def _notebook(
    entry: Entry, file_name: str, notebooks: Collection[str], marks: Mapping[str, frozenset[str]]
) -> tuple[str | None, int]:
    """Return which notebook a file is, by its name, its cells or its folder (nbgrader), and the number of the copy."""
    stem, dot, suffix = file_name.rpartition(".")
    if not dot or suffix.lower() != "ipynb" or entry.fault:
        return None, 0
    notebook, copy = by_name(stem, notebooks)
    if notebook is None and marks:
        try:
            notebook = by_cells(entry.read(), marks)
        except GradingError:
            notebook = None
    if notebook is None and len(entry.parts) > 1:
        notebook, _ = by_name(entry.parts[-2], notebooks)
    return notebook, copy


def _keys(people: Collection[Person]) -> dict[Person, str]:
    """Return a name for each student that is safe for files and unique, also where files' names ignore case."""
    plain = {person: _display(person) for person in people}
    count = Counter(name.casefold() for name in plain.values())
    return {person: _safe(name, unique=count[name.casefold()] > 1) for person, name in plain.items()}


def _display(person: Person) -> str:
    return visible(f"{person.name} {person.number}".strip())


def _safe(name: str, *, unique: bool = False) -> str:
    """Return a name that is safe for files; if characters were replaced, a hash makes it unique."""
    safe = re.sub(r"[^A-Za-z0-9@+-]+", "_", name).strip("_")[:60]
    if safe == name and not unique:
        return safe
    return f"{safe or 'student'}-{sha256(name)[:6]}"


def _students(files: Iterable[_File], keys: Mapping[Person, str]) -> Iterable[Student]:
    """Yield all students by name, with their files that are not notebooks to grade."""
    others: dict[Person, list[str]] = {}
    for file in sorted(files, key=lambda file: file.entry.label):
        own = others.setdefault(file.person, [])
        if file.notebook is None:
            own.append(visible(file.name) + (f" ({file.entry.fault})" if file.entry.fault else ""))
    for person in sorted(others, key=lambda person: keys[person]):
        yield Student(keys[person], _display(person), person.name, person.ids, tuple(others[person]))


def _not_notebooks(student: Student, chosen: Collection[Submission]) -> str:
    has_some = any(item.student == student.student for item in chosen)
    names = ", ".join(student.other_files[:8]) + (
        f" and {len(student.other_files) - 8} more" if student.other_files[8:] else ""
    )
    return f"{student.display_name}: {'not graded' if has_some else 'no notebook to grade, only'}: {names}"


def _choice(versions: Sequence[_File], zone: tzinfo | None) -> str:
    """Return a sentence: which of a student's versions counts, why, and which do not."""
    first, second = versions[:2]
    when = datetime.fromtimestamp(first.order[0], zone).strftime("%Y-%m-%d %H:%M:%S")
    if first.order[0] != second.order[0]:
        reason = f"it is the newest, of {when}"
    elif first.order[1] != second.order[1]:
        reason = f"all are of {when}, and the learning system's number of this one is the highest"
    elif first.order[2] != second.order[2]:
        reason = f"all are of {when}, and this is the latest copy by its name"
    else:
        reason = f"all are of {when}, and it is the last by name"
    older = ", ".join(version.entry.label for version in versions[1:])
    chosen = f"{_display(first.person)}, {first.notebook}: {first.entry.label} counts: {reason}"
    return f"{chosen}; older submissions, ignored: {older}"
