"""Read the instructor's notebooks for release and grading: cells to run, answer cells, points, exercises."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from labkit.cache import sha256
from labkit.course.checks import OWN_EXERCISES, known_exercises
from labkit.course.exercise import Exercise
from labkit.errors import ArgumentError, GradingError
from labkit.extras import needs_extra

with needs_extra():
    import nbformat

_MAX_FILE_CHARACTERS = 1 << 20


@dataclasses.dataclass(frozen=True)
class SourceCell:
    """A code cell of the instructor's notebook."""

    cell_id: str
    source: str
    answers: str | None  # the exercise that it answers
    checks: str | None  # the exercise that it checks


@dataclasses.dataclass(frozen=True)
class SourceNotebook:
    """An instructor's notebook."""

    name: str  # of the file, without .ipynb
    cells: tuple[SourceCell, ...]  # to run, in order, up to the last check
    points: Mapping[str, float]  # of each exercise, from the check cells
    exercises: Mapping[str, Exercise]
    checksum: str  # SHA-256 of the file and of the ``exercises.py`` next to it
    kernel: str  # name of the kernel that it requests
    cell_ids: frozenset[str]  # of all code cells, including those after the last check
    files: Mapping[str, str]  # text of the ``exercises.py`` next to it, by file name


def read_sources(path: str | Path) -> dict[str, SourceNotebook]:
    """Read a notebook, or the notebooks with exercises in a folder; return them by name."""
    place = Path(path).expanduser()
    paths = sorted(place.glob("*.ipynb")) if place.is_dir() else [place]
    found = {item.stem: read_source(item) for item in paths if item.is_file()}
    sources = {name: source for name, source in found.items() if source.points}
    if not sources:
        raise ArgumentError(f"{place} has no notebook with exercises: name the folder with the instructor's notebooks")
    return sources


def read_source(path: Path) -> SourceNotebook:
    """Read one instructor's notebook; raise `GradingError` if it is damaged or its cells are inconsistent."""
    try:
        content = path.read_bytes()
        notebook = nbformat.reads(content.decode(), as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise GradingError(f"{path} is not a notebook: {error}") from None
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells = [_cell(cell) for cell in code if "nbval-skip" not in cell.metadata.get("tags", [])]
    last = max((index for index, cell in enumerate(cells) if cell.checks or cell.answers), default=-1)
    points = {
        cell.metadata["nbgrader"]["grade_id"].removeprefix("check-"): float(cell.metadata["nbgrader"].get("points", 0))
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("grade")
    }
    exercises = _exercises(path, cells, points)
    kernel = str(notebook.metadata.get("kernelspec", {}).get("name", "python3"))
    ids = frozenset(str(cell.get("id", "")) for cell in code)
    files = exercises_file(path.parent)
    checksum = sha256(b"\0".join([content, *(text.encode() for text in files.values())]))
    return SourceNotebook(path.stem, tuple(cells[: last + 1]), points, exercises, checksum, kernel, ids, files)


def exercises_file(folder: Path) -> dict[str, str]:
    """Return the text of a folder's ``exercises.py`` by file name; empty if there is none.

    It must not be too large to send with each notebook.
    """
    path = folder / OWN_EXERCISES
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise GradingError(f"{path} cannot be read: {error}") from None
    if len(text) > _MAX_FILE_CHARACTERS:
        raise GradingError(f"{path} is larger than {_MAX_FILE_CHARACTERS >> 20} MB")
    return {path.name: text}


def _cell(cell: nbformat.NotebookNode) -> SourceCell:
    marks = cell.metadata.get("nbgrader", {})
    name = str(marks.get("grade_id", ""))
    answers = name if marks.get("solution") else None
    checks = name.removeprefix("check-") if marks.get("grade") else None
    return SourceCell(str(cell.get("id", "")), str(cell.source), answers, checks)


def _exercises(path: Path, cells: list[SourceCell], points: dict[str, float]) -> dict[str, Exercise]:
    """Return the exercises by name; each needs an answer cell and a check cell."""
    answered = [cell.answers for cell in cells if cell.answers]
    if len(set(answered)) != len(answered) or len({cell.cell_id for cell in cells}) != len(cells):
        raise GradingError(f"{path.name}: two of its cells have the same name or id")
    if missing := set(points) ^ set(answered):
        raise GradingError(f"{path.name}: {', '.join(sorted(missing))} needs both an answer cell and a check cell")
    if not points:
        return {}
    try:
        known = known_exercises(path.parent.resolve())
    except ArgumentError as error:
        raise GradingError(str(error)) from None
    if unknown := points.keys() - known.keys():
        where = f"define it in {OWN_EXERCISES} next to the notebook, or use an exercise of the course"
        raise GradingError(f"{path.name}: unknown exercise {min(unknown)!r}: {where}")
    return {name: known[name] for name in points}
