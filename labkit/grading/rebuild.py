"""Rebuild a notebook: the instructor's cells with a student's answers, and nothing else from the student."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from labkit.course.release import HIDDEN_TESTS as _HIDDEN
from labkit.course.source import SourceCell, SourceNotebook
from labkit.errors import GradingError
from labkit.grading.archives import MAX_BYTES

_MAX_CELLS = 2000
_MAX_PARTS = 400_000  # brackets, braces and commas: each becomes a Python object, many times larger
_MAX_ANSWER_CHARACTERS = 100_000
_POINTS = re.compile(r"\A# [0-9.]+ points?\n")  # a release writes this above a check
_MARKER = re.compile(r"#[ \t]*(?:NBVAL_[A-Z_]+|nbval-[a-z-]+|PYTEST_VALIDATE_IGNORE_OUTPUT)[^\n]*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """A student's notebook, rebuilt."""

    cells: tuple[SourceCell, ...]
    answers: dict[str, str]  # by exercise
    problems: tuple[str, ...]  # with the submitted notebook, as sentences for the student


@dataclasses.dataclass(frozen=True)
class _Cell:
    cell_id: str
    grade_id: str
    kind: str
    source: str


def rebuild(source: SourceNotebook, content: bytes) -> Rebuilt:
    """Put the answers of a submitted file into the instructor's notebook."""
    notebook = _parse(content)
    given = _cells(notebook)
    problems = _kernel_problems(source, notebook)
    answers: dict[str, str] = {}
    for cell in source.cells:
        if cell.answers:
            text, found = _answer(cell, given)
            problems += found
            answers[cell.answers] = text
    problems += _other_problems(source, given)
    cells = tuple(dataclasses.replace(cell, source=answers[cell.answers]) if cell.answers else cell for cell in source.cells)
    return Rebuilt(cells, answers, tuple(problems))


def _parse(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise GradingError(f"the file is larger than {MAX_BYTES >> 20} MB: clear its outputs and submit it again")
    if content.count(b'"cell_type"') > _MAX_CELLS:
        raise GradingError(f"the notebook has more than {_MAX_CELLS:,} cells")
    if sum(map(content.count, (b"[", b"{", b","))) > _MAX_PARTS:
        raise GradingError("the notebook has too many parts: clear its outputs and submit it again")
    try:
        notebook = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise GradingError(f"the file is not a notebook: it is not valid JSON ({type(error).__name__})") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise GradingError("the file is not a notebook of format 4: it has no list of cells")
    return notebook


def _cells(notebook: dict[str, Any]) -> list[_Cell]:
    found = []
    for cell in notebook["cells"]:
        if isinstance(cell, dict):
            marks = _dict(_dict(cell.get("metadata")).get("nbgrader"))
            names = [str(value or "")[:200] for value in (cell.get("id"), marks.get("grade_id"), cell.get("cell_type"))]
            source = cell.get("source")
            lines = source if isinstance(source, list) else [source]
            found.append(_Cell(names[0], names[1], names[2], "".join(line for line in lines if isinstance(line, str))))
    return found


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _answer(cell: SourceCell, given: Sequence[_Cell]) -> tuple[str, list[str]]:
    """Return a student's answer to an exercise, and problems with its cell."""
    name = str(cell.answers)
    found = [item for item in given if item.cell_id == cell.cell_id]
    problems = []
    if not found:
        found = [item for item in given if item.grade_id == name]
        if not found:
            return "", [f"The answer cell of {name} is missing: it counts as not answered."]
        problems.append(f"The answer cell of {name} has a different id; it was found by its nbgrader name.")
    if len(found) > 1:
        problems.append(f"{name} has {len(found)} answer cells: the first one counts.")
    if found[0].kind != "code":
        return "", [*problems, f"The answer cell of {name} is not a code cell: it counts as not answered."]
    return _stripped(name, found[0].source, problems)


def _stripped(name: str, text: str, problems: list[str]) -> tuple[str, list[str]]:
    if len(text) > _MAX_ANSWER_CHARACTERS:
        return "", [*problems, f"The answer to {name} is longer than {_MAX_ANSWER_CHARACTERS:,} characters: it was not run."]
    text = text.encode("utf-8", errors="replace").decode()  # JSON allows lone surrogates, which UTF-8 cannot encode
    stripped = _MARKER.sub("", text)
    if stripped != text:
        problems.append(f"The answer to {name} had nbval markers: they were removed.")
    return stripped, problems


def _kernel_problems(source: SourceNotebook, notebook: dict[str, Any]) -> list[str]:
    name = str(_dict(_dict(notebook.get("metadata")).get("kernelspec")).get("name") or source.kernel)[:60]
    if name == source.kernel:
        return []
    return [f"The notebook requests the kernel {name!r}: it was run with {source.kernel!r}."]


def _other_problems(source: SourceNotebook, given: Sequence[_Cell]) -> list[str]:
    """Return problems with cells other than answers; the student's versions of these are never run."""
    problems = []
    texts: dict[str, list[str]] = {}
    for item in given:
        texts.setdefault(item.cell_id, []).append(_POINTS.sub("", item.source))
    for cell in (cell for cell in source.cells if cell.checks):
        found = texts.get(cell.cell_id, [])
        if not found:
            problems.append(f"The check cell of {cell.checks} is missing: the instructor's was run.")
        elif found != [_POINTS.sub("", _HIDDEN.sub("", cell.source).rstrip("\n"))] and found != [cell.source]:
            problems.append(f"The check cell of {cell.checks} was changed or copied: the instructor's was run.")
    own = source.cell_ids | {cell.cell_id for cell in source.cells}
    further = sum(item.kind == "code" and item.cell_id not in own for item in given)
    if further:
        problems.append(f"Code cells added to the instructor's notebook: {further}; not run.")
    return problems
