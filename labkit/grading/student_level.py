"""Which folder names the student, where no learning system does: the same level for a whole class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import combinations

from labkit.errors import GradingError
from labkit.grading.untrusted_text import visible

# Folders for a class, a week or a group, in some languages; "alice" is none of them; "week 3", "group-b", "2026-11-20" are.
_NO_STUDENT = re.compile(
    r"^(?:submissions?|submitted|students?|class|course|handed[ _-]?in|homeworks?|hw|assignments?|weeks?|groups?|grp|teams?"
    r"|sections?|chapters?|ch|labs?|units?|lessons?|sessions?|modules?|tutorials?|seminars?|projects?|exercises?|ex|tasks?|parts?"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:mon|diens|donners|frei|sams|sonn)tag|mittwoch"
    r"|abgaben?|woche|gruppe|kapitel|blatt|aufgaben?|(?:ü|ue)bung(?:en)?|semaine|groupe|rendus?|semana|grupo|entregas?|tareas?)"
    r"(?:[-_ .]*(?:\d+|[a-z]|[ivx]+))?$|^\d{4}[-_.]\d\d(?:[-_.]\d\d)?$|^\d\d[-_.]\d\d[-_.]\d{4}$"
    r"|-\d{8}T\d{6}Z-",  # a zip of Google Drive
    re.IGNORECASE,
)
# Folders that students make for several versions of their work.
_OWN_VERSION = re.compile(
    r"attempt|resubmi|backup|(?<![a-z])(?:try|old|new|bak|versions?|v\d+|copy|kopie|final|draft|archive|corrected)(?![a-z])"
    r"|^\d{1,2}$|^\d{4}[-_.]\d\d",
    re.IGNORECASE,
)


def student_level(files: Sequence[tuple[tuple[str, ...], str]], notebooks: Collection[str]) -> int:
    """Return the index of the part of the paths that names the student.

    ``files`` are pairs of a path's parts and the notebook in it. Raises `GradingError` if several levels are possible:
    grading at the wrong one would give classmates' notebooks to one student.
    """
    files = [(parts, notebook) for parts, notebook in files if len(parts) > 1]
    if not files:
        return 0
    levels = list(range(min(len(parts) for parts, _ in files) - 1))
    named = {name.casefold() for name in notebooks}
    plausible = [
        level
        for level in levels
        if not all(_NO_STUDENT.search(parts[level]) or parts[level].casefold() in named for parts, _ in files)
    ]
    places = Counter((parts[:-1], notebook) for parts, notebook in files)
    if not plausible and max(places.values()) > 1:  # week 1/alice.ipynb, week 1/bob.ipynb
        folder, notebook = max(places, key=lambda place: places[place])
        raise GradingError(
            f"no folder names the student: {visible('/'.join(folder))} has {places[folder, notebook]} files of {notebook}; "
            "nothing was graded: use one folder per student, or pass --student-level 1 if they are one student's"
        )
    plausible = plausible or levels
    clean = [level for level in plausible if not _mixed(files, level) and not _repeated(files, level)]
    if not clean and len(plausible) == 1 and not _mixed(files, plausible[0]):
        return plausible[0]  # a student's notebook in several weeks: the newest counts
    if len(clean) == 1 or (clean and _same_students(files, clean)):
        return clean[0]
    raise GradingError(_ambiguous(files, clean or plausible))


def _mixed(files: Sequence[tuple[tuple[str, ...], str]], level: int) -> bool:
    """Return whether a folder at this level has a notebook in several folders below it, as those of classmates would be."""
    folders: dict[tuple[tuple[str, ...], str], set[str]] = {}
    for parts, notebook in files:
        for below in range(level + 1, len(parts) - 1):
            if not _OWN_VERSION.search(parts[below]):
                folders.setdefault((parts[:below], notebook), set()).add(parts[below])
    return any(len(found) > 1 for found in folders.values())


def _repeated(files: Sequence[tuple[tuple[str, ...], str]], level: int) -> bool:
    """Return whether folders of one name in several places have the same notebook."""
    places: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for parts, notebook in files:
        places.setdefault((parts[level], notebook), set()).add(parts[:level])
    return any(len(found) > 1 for found in places.values())


def _same_students(files: Sequence[tuple[tuple[str, ...], str]], levels: Sequence[int]) -> bool:
    """Return whether all levels give the same students, of whom two have the same notebook."""
    for first, other in combinations(levels, 2):
        pairs = {(parts[: first + 1], parts[: other + 1]) for parts, _ in files}
        if not len(pairs) == len({pair[0] for pair in pairs}) == len({pair[1] for pair in pairs}):
            return False
    owners: dict[str, set[str]] = {}
    for parts, notebook in files:
        owners.setdefault(notebook, set()).add(parts[levels[0]])
    return any(len(found) > 1 for found in owners.values())


def _ambiguous(files: Sequence[tuple[tuple[str, ...], str]], levels: Sequence[int]) -> str:
    levels = levels if len(levels) > 1 else [levels[0], levels[0] + 1]
    parts = max((parts for parts, _ in files), key=len)
    names = " or ".join(repr(visible(parts[level])) for level in levels if level < len(parts) - 1)
    numbers = " or ".join(str(level + 1) for level in levels)
    return (
        f"which folder names the student is ambiguous: {names} in {visible('/'.join(parts))}; nothing was graded: "
        f"pass --student-level {numbers} (1 is the topmost folder), or use one folder per student"
    )
