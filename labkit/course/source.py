"""Read the instructor's notebooks for release and grading: cells to run, answer cells, points, exercises."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.cache import sha256
from labkit.course.checks import OWN_EXERCISES, known_exercises
from labkit.course.exercise import Exercise
from labkit.errors import ArgumentError, GradingError
from labkit.extras import needs_extra

with needs_extra():
    import nbformat

_MAX_FILE_CHARACTERS = 1 << 20
_CODING = re.compile(r"^([ \t\f]*#.*?coding[:=][ \t]*)[-\w.]+", re.MULTILINE)
_POINTS = re.compile(r"\A# [0-9.]+ points?\n")  # a release writes this above a check
_HIDDEN = re.compile(
    r"^[ \t]*### BEGIN HIDDEN TESTS[ \t]*\n.*?^[ \t]*### END HIDDEN TESTS[ \t]*\n?", re.DOTALL | re.MULTILINE
)


@dataclasses.dataclass(frozen=True)
class SourceCell:
    """A code cell of the instructor's notebook."""

    cell_id: str
    source: str
    answers: str | None = None  # the exercise that it answers
    checks: str | None = None  # the exercise that it checks


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
    texts: frozenset[str]  # of all code cells, as `text_of` returns them
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
    content, notebook = read_document(path)
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
    ids = frozenset(str(cell["id"]) for cell in code)
    texts = frozenset(text_of(cell.source) for cell in code)
    files = exercises_file(path.parent)
    checksum = sha256(b"\0".join([content, *(text.encode() for text in files.values())]))
    return SourceNotebook(path.stem, tuple(cells[: last + 1]), points, exercises, checksum, kernel, ids, texts, files)


def read_document(path: Path) -> tuple[bytes, Any]:
    """Return a notebook file's bytes and its notebook, whose cells have ids and lines that end as on Linux."""
    try:
        content = path.read_bytes()
        document = json.loads(content.decode("utf-8-sig"))
        if document.get("nbformat", 4) < 4:
            document = nbformat.reads(json.dumps(document), as_version=4)  # type: ignore[no-untyped-call]
            document = {**document, "cells": [{**cell, "id": ""} for cell in document["cells"]]}
        _complete(document["cells"])
        document["nbformat_minor"] = max(5, document.get("nbformat_minor", 5))
        return content, nbformat.reads(json.dumps(document), as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise GradingError(f"{path} is not a notebook: {error}") from None


def _complete(cells: list[dict[str, Any]]) -> None:
    """Give ids to cells without one (older tools write none), the same in each call; unify line ends."""
    taken: set[str] = set()
    for cell in cells:
        source = "".join(cell["source"]).replace("\r\n", "\n").replace("\r", "\n")
        cell_id, number = str(cell.get("id") or ""), 0
        while not cell_id or cell_id in taken:
            cell_id, number = f"cell-{sha256(source)[:8]}-{number}", number + 1
        taken.add(cell_id)
        cell |= {"id": cell_id, "source": source, "metadata": cell.get("metadata", {})}


def text_of(source: str) -> str:
    """Return a cell's text as it is compared: as released, without spaces at line ends."""
    return "\n".join(line.rstrip() for line in _HIDDEN.sub("", _POINTS.sub("", source)).strip().split("\n"))


def exercises_file(folder: Path) -> dict[str, str]:
    """Return the text of a folder's ``exercises.py`` by file name; empty if there is none.

    It must not be too large to send with each notebook.
    """
    path = folder / OWN_EXERCISES
    if not path.is_file():
        return {}
    try:
        content = path.read_bytes()
        text = content.decode(tokenize.detect_encoding(io.BytesIO(content).readline)[0])  # as Python reads it
    except (OSError, ValueError, SyntaxError) as error:
        raise GradingError(f"{path} cannot be read: {error}") from None
    if len(text) > _MAX_FILE_CHARACTERS:
        raise GradingError(f"{path} is larger than {_MAX_FILE_CHARACTERS >> 20} MB")
    head, rest = text.replace("\r\n", "\n").partition("\n")[::2]  # a coding line names the file's encoding, not the copy's
    second, rest = rest.partition("\n")[::2]
    return {path.name: "\n".join([*(_CODING.sub(r"\1utf-8", line) for line in (head, second)), rest])}


def _cell(cell: nbformat.NotebookNode) -> SourceCell:
    marks = cell.metadata.get("nbgrader", {})
    name = str(marks.get("grade_id", ""))
    answers = name if marks.get("solution") else None
    checks = name.removeprefix("check-") if marks.get("grade") else None
    return SourceCell(str(cell.get("id", "")), str(cell.source), answers, checks)


def _exercises(path: Path, cells: list[SourceCell], points: dict[str, float]) -> dict[str, Exercise]:
    """Return the exercises by name; each needs an answer cell and a check cell."""
    answered = [cell.answers for cell in cells if cell.answers]
    if len(set(answered)) != len(answered):
        raise GradingError(f"{path.name}: two of its cells answer the same exercise")
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
