"""release_course: write the students' version of the notebooks, without solutions and outputs, and a manifest."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labkit.cache import sha256
from labkit.course.source import SourceNotebook, exercises_file, read_source
from labkit.errors import ArgumentError, GradingError
from labkit.extras import needs_extra
from labkit.output_files import user_path, write_all, writing
from labkit.records import Record

with needs_extra():
    import nbformat

MANIFEST = "manifest.json"
_SCHEMA = 1
_BEGIN, _END = "### BEGIN SOLUTION", "### END SOLUTION"
_SOLUTION = re.compile(rf"^(?P<indent>[ \t]*){_BEGIN}[ \t]*\n.*?^[ \t]*{_END}[ \t]*$", re.DOTALL | re.MULTILINE)
HIDDEN_TESTS = re.compile(
    r"^[ \t]*### BEGIN HIDDEN TESTS[ \t]*\n.*?^[ \t]*### END HIDDEN TESTS[ \t]*\n?", re.DOTALL | re.MULTILINE
)
_LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]*)?\)")  # a link out of the notebooks' folder
_PAGE = re.compile(r"\]\((?:docs/)?([\w-]+\.md)(?:#[^)]*)?\)")
_DETAILS = re.compile(r"<details>\s*<summary>A solution</summary>.*?</details>\s*", re.DOTALL)


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
    """Write the students' version of every notebook in a folder, the files that they need, and ``manifest.json``.

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
    texts = {name: text for name, (text, _) in documents.items()}
    files = {**_for_assistants(folder), **exercises_file(folder), **_pages(folder, texts.values())}
    with writing(place):
        existing = [name for name in (*texts, *files, MANIFEST) if (place / name).exists()]
    if existing and not overwrite:
        raise ArgumentError(f"{place} already has {existing[0]}: name another folder, or pass overwrite=True (--force)")
    entries = [_manifest_entry(name, text, read) for name, (text, read) in documents.items()]
    extras = [{"file": name, "sha256": sha256(text)} for name, text in files.items()]
    manifest = json.dumps({"schema": _SCHEMA, "notebooks": entries, "files": extras}, indent=1, sort_keys=True) + "\n"
    write_all({place / name: text for name, text in {**texts, **files, MANIFEST: manifest}.items()})
    notebooks = tuple(
        ReleasedNotebook(entry["file"], tuple(documents[entry["file"]][1].points), entry["points"], entry["sha256"])
        for entry in entries
    )
    return ReleaseResult(str(place), notebooks, sum(notebook.points for notebook in notebooks))


def stub_of(source: str, name: str) -> str:
    """Replace the solution in a cell with a stub: an error in a function, None for a value."""
    if len(_SOLUTION.findall(source)) != 1 or source.count(_BEGIN) != 1 or source.count(_END) != 1:
        raise GradingError(f"the answer cell of {name} needs one region between {_BEGIN!r} and {_END!r}")

    def stub(found: re.Match[str]) -> str:
        indent = found["indent"]
        if indent:
            return f'{indent}# YOUR CODE HERE\n{indent}raise NotImplementedError("write your code here")'
        return f"{name} = None  # YOUR CODE HERE"

    return _SOLUTION.sub(stub, source)


def _release(path: Path) -> tuple[str, SourceNotebook]:
    """Return the released notebook as text, and the parsed source."""
    read = read_source(path)
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    try:
        for cell in notebook.cells:
            _strip(cell)
    except GradingError as error:
        raise GradingError(f"{path.name}: {error}") from None
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n", read


def _strip(cell: Any) -> None:
    """Remove what students do not get."""
    marks = cell.metadata.get("nbgrader", {})
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
        if marks.get("solution"):
            cell.source = stub_of(cell.source, str(marks.get("grade_id")))
        elif _BEGIN in cell.source:
            raise GradingError(f"the cell {cell.get('id')} has a solution, but is not marked as an answer")
        cell.source = HIDDEN_TESTS.sub("", cell.source).rstrip("\n")
        if "### BEGIN HIDDEN TESTS" in cell.source:
            raise GradingError(f"the hidden tests of the cell {cell.get('id')} have no end")
        if marks.get("grade"):
            points = float(marks.get("points", 0))
            cell.source = f"# {points:g} point{'' if points == 1 else 's'}\n{cell.source}"
    else:
        cell.source = _LINK.sub(_local_link, _DETAILS.sub("", cell.source).rstrip("\n"))


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
