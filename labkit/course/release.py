"""release_course: write the students' version of the notebooks, without solutions and outputs, and a manifest."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from labkit.cache import sha256
from labkit.course.regions import BEGIN, END, SOLUTION, split_regions, telling_lines, without_regions
from labkit.course.source import SourceNotebook, exercises_file, read_document, read_source
from labkit.errors import ArgumentError, GradingError
from labkit.output_files import user_path, write_all, writing
from labkit.records import Record
from labkit.units import counted

MANIFEST = ".manifest.json"
_LONG = 24  # characters of a line that no other text has by chance
_SCHEMA = 1
_LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]*)?\)")  # a link out of the notebooks' folder
_PAGE = re.compile(r"\]\((?:docs/)?([\w-]+\.md)(?:#[^)]*)?\)")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ReleasedNotebook(Record):
    """A released notebook."""

    name: str  # of the file
    exercises: tuple[str, ...]
    points: float  # of its exercises together
    sha256: str  # of the file


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ReleaseResult(Record):
    """The result of `release_course`."""

    folder: str
    notebooks: tuple[ReleasedNotebook, ...]
    points: float  # of the course


def release_course(source: str | Path, target: str | Path, *, overwrite: bool = False) -> ReleaseResult:
    """Write the students' version of every notebook in a folder, the files that they need, and ``.manifest.json``.

    Solutions become stubs, hidden tests and outputs are removed, check cells show their points. An ``exercises.py``
    next to the notebooks and the pages of ``../docs`` that they link to are copied. ``AGENTS.md`` asks students' AI
    assistants to give no solutions; one next to the notebooks replaces it. The same source gives the same bytes. If a
    notebook is damaged or inconsistent, or the disk is full, nothing is written.
    """
    folder, place = user_path(source), user_path(target)
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise ArgumentError(f"{folder} has no notebooks: name the folder with the instructor's notebooks")
    if place.resolve() == folder.resolve():
        raise ArgumentError("the released notebooks cannot replace those with the solutions: name another folder")
    documents = {path.name: _release(path) for path in paths}
    texts = {name: text for name, (text, _, _) in documents.items()}
    files = {**_for_assistants(folder), **exercises_file(folder), **_pages(folder, texts.values())}
    _refuse_leaks({**texts, **files}, set[str]().union(*(lines for _, _, lines in documents.values())))
    entries = [_manifest_entry(name, text, read) for name, (text, read, _) in documents.items()]
    extras = [{"file": name, "sha256": sha256(text)} for name, text in files.items()]
    manifest = json.dumps({"schema": _SCHEMA, "notebooks": entries, "files": extras}, indent=1, sort_keys=True) + "\n"
    write_files(place, {**texts, **files, MANIFEST: manifest}, overwrite=overwrite)
    notebooks = tuple(
        ReleasedNotebook(entry["file"], tuple(documents[entry["file"]][1].points), entry["points"], entry["sha256"])
        for entry in entries
    )
    return ReleaseResult(str(place), notebooks, sum(notebook.points for notebook in notebooks))


def write_files(place: Path, files: Mapping[str, str | bytes], *, overwrite: bool) -> None:
    """Write files into a folder, all or none; replace existing ones only if ``overwrite``."""
    with writing(place):
        existing = [name for name in files if (place / name).exists()]
    if existing and not overwrite:
        raise ArgumentError(f"{place} already has {existing[0]}: name another folder, or pass overwrite=True (--force)")
    write_all({place / name: content for name, content in files.items()})


def stub_of(source: str, name: str) -> str:
    """Replace the solution in a cell with a stub: an error in a function, None for a value."""
    regions = split_regions(source, f"the answer cell of {name}")
    if sum(region.kind == SOLUTION for region in regions) != 1:
        raise GradingError(f"the answer cell of {name} needs one region between {BEGIN!r} and {END!r}")
    lines: list[str] = []
    for region in regions:
        lines += _stub(region.indent, name) if region.kind == SOLUTION else [] if region.kind else region.lines
    return "\n".join(lines)


def _stub(indent: str, name: str) -> list[str]:
    if indent:
        return [f"{indent}# YOUR CODE HERE", f'{indent}raise NotImplementedError("write your code here")']
    return [f"{name} = None  # YOUR CODE HERE"]


def _release(path: Path) -> tuple[str, SourceNotebook, set[str]]:
    """Return the released notebook as text, the parsed source, and the lines that may not be in any released file."""
    read = read_source(path)
    _, notebook = read_document(path)
    removed: list[str] = []
    for number, cell in enumerate(notebook.cells, start=1):
        removed += _strip(cell, f"{path.name}, cell {number} ({cell.id})")
    notebook.metadata.pop("widgets", None)  # the state of widgets holds what they showed
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n", read, telling_lines(removed)


def _strip(cell: Any, where: str) -> list[str]:
    """Remove what students do not get; return the lines of solutions."""
    marks = cell.metadata.get("nbgrader", {})
    source = cell.source
    cell.source, removed = without_regions(source, where)
    cell.source = cell.source.rstrip("\n")
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
        if marks.get("solution"):
            cell.source = stub_of(source, str(marks.get("grade_id"))).rstrip("\n")
        elif BEGIN in source:
            raise GradingError(f"{where} has a solution, but is not marked as an answer")
        if marks.get("grade"):
            points = float(marks.get("points", 0))
            cell.source = f"# {counted(points, 'point')}\n{cell.source}"
    elif marks.get("solution"):
        removed += source.split("\n")
        cell.source = "YOUR ANSWER HERE"
    if cell.cell_type == "markdown":
        cell.source = _LINK.sub(_local_link, cell.source)
    for name in [name for name in cell.get("attachments", {}) if f"attachment:{name}" not in unquote(cell.source)]:
        del cell.attachments[name]
    return removed


def _refuse_leaks(documents: Mapping[str, str], lines: set[str]) -> None:
    """Raise `GradingError` if a line of a solution is anywhere in the released files."""
    for file, text in documents.items():
        if not file.endswith(".ipynb"):
            _refuse_line(file, text, lines)
            continue
        notebook = json.loads(text)
        for number, cell in enumerate(notebook["cells"], start=1):
            where = f"{file}, cell {number} ({cell['id']})"
            _refuse_line(where, cell["source"], lines)
            _refuse_line(f"{where}, metadata", _texts(cell["metadata"]), lines)
        _refuse_line(f"{file}, metadata", _texts(notebook["metadata"]), lines)


def _refuse_line(where: str, text: str, lines: set[str]) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        plain, bare = " ".join(line.split()), "".join(line.split())  # a formatter may have changed the spaces
        found = (solution for solution in sorted(lines) if solution in plain or solution.replace(" ", "") == bare)
        if leaked := next(found, None):
            raise GradingError(f"{where}, line {number}: a line of a solution, {leaked[:60]!r}: remove it, or change one")
    flat = _flat(text)
    for one in sorted(lines):
        bare = _flat(one)
        if len(bare) >= _LONG and bare in flat and re.search(rf"(?<!\w){re.escape(bare)}(?!\w)", flat):
            raise GradingError(f"{where}: a line of a solution, {one[:60]!r}: remove it, or change one")


@functools.lru_cache(maxsize=2000)
def _flat(text: str) -> str:
    """Return a text as a formatter leaves it alone: without line breaks, spaces around operators, commas before brackets."""
    return re.sub(r" ?([^\w ]) ?", r"\1", " ".join(text.split())).replace(",)", ")").replace(",]", "]")


def _texts(value: Any) -> str:
    """Return all texts in a JSON value, one below the other."""
    if isinstance(value, dict):
        return "\n".join(map(_texts, [*value, *value.values()]))
    return "\n".join(map(_texts, value)) if isinstance(value, list) else str(value)


def _for_assistants(folder: Path) -> dict[str, str]:
    """Return the page for students' AI assistants by file name: the instructor's, or labkit's."""
    own = folder / "AGENTS.md"
    path = own if own.is_file() else Path(__file__).with_name("for_assistants.md")
    return {own.name: path.read_text(encoding="utf-8")}


def _local_link(link: re.Match[str]) -> str:
    """Rewrite a link for the students' folder: to the copied page of docs/, or as plain text for anything else."""
    text, target, anchor = link.groups(default="")
    return f"[{text}]({target}{anchor})" if re.fullmatch(r"docs/[\w-]+\.md", target) else text


def _pages(folder: Path, documents: Iterable[str]) -> dict[str, str]:
    """Return the pages of docs/ that released notebooks link to, directly or through other pages, by name."""
    pages: dict[str, str] = {}
    names = [name for text in documents for name in _PAGE.findall(text)]
    while names:
        path = folder.parent / "docs" / (name := names.pop())
        if f"docs/{name}" not in pages and path.is_file():
            text = pages[f"docs/{name}"] = path.read_text(encoding="utf-8")
            names += _PAGE.findall(text)
    return dict(sorted(pages.items()))


def _manifest_entry(name: str, text: str, read: SourceNotebook) -> dict[str, Any]:
    cells = []
    for cell in json.loads(text)["cells"]:
        marks = cell["metadata"].get("nbgrader", {})
        role = "answer" if marks.get("solution") else "check" if marks.get("grade") else "other"
        entry = {"id": cell.get("id"), "type": cell["cell_type"], "role": role, "sha256": sha256(cell["source"])}
        if role != "other":
            entry["exercise"] = str(marks["grade_id"]).removeprefix("check-")
        if role == "check":
            entry["points"] = float(marks.get("points", 0))
        cells.append(entry)
    return {"file": name, "sha256": sha256(text), "points": sum(read.points.values()), "cells": cells}
