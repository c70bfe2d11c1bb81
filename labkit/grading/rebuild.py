"""Rebuild a notebook: the instructor's cells with a student's answers, and the cells that the student added between them."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from labkit.course.source import SourceCell, SourceNotebook, text_of
from labkit.grading.notebook_file import Cell, read_notebook
from labkit.grading.sandbox.probe import additions_code

_MAX_CHARACTERS = 100_000  # of an answer, or of a cell of the student's own
_MARKER = re.compile(r"#[ \t]*(?:NBVAL_[A-Z_]+|nbval-[a-z-]+|PYTEST_VALIDATE_IGNORE_OUTPUT)[^\n]*", re.IGNORECASE)
_OWN, _NOT_RUN = -1, -2  # homes of cells that are none of the instructor's, and of those that grading does not run


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """A student's notebook, rebuilt."""

    cells: tuple[SourceCell, ...]
    answers: dict[str, str]  # by exercise
    problems: tuple[str, ...]  # with the submitted notebook, as sentences for the student


def rebuild(source: SourceNotebook, content: bytes) -> Rebuilt:
    """Put the answers of a submitted file, and the student's own cells, into the instructor's notebook.

    An answer is all code cells with its mark, in order, down to the last check of it; without marks and ids, the cells
    that define its name. The instructor's cells are found by mark, id or text. All other code cells are the student's
    own, and run behind the same cell as in the student's notebook.
    """
    kernel, given = read_notebook(content)
    problems = []
    if kernel not in ("", source.kernel):
        problems.append(f"The notebook requests the kernel {kernel!r}: it was run with {source.kernel!r}.")
    layout = _Layout(source, given)
    answers = {name: layout.answer(name) for name in source.exercises}
    cells = tuple(layout.cells())
    return Rebuilt(cells, answers, (*problems, *layout.problems))


class _Layout:
    """Where the cells of a student's notebook belong in the instructor's."""

    def __init__(self, source: SourceNotebook, given: Sequence[Cell]) -> None:
        self._source, self._given = source, given
        self.problems: list[str] = []
        self._parts: dict[str, list[Cell]] = {name: [] for name in source.exercises}
        self._versions: dict[int, list[Cell]] = defaultdict(list)  # the student's versions of the instructor's cells
        self._behind: dict[int, list[Cell]] = defaultdict(list)  # parts and own cells, by the instructor's cell above them
        self._place([cell for cell in given if cell.kind == "code"])

    def answer(self, name: str) -> str:
        """Return a student's answer, its parts joined, and note problems with it."""
        parts, note = self._parts[name], self.problems.append
        if not parts:
            marked = [cell for cell in self._given if cell.grade_id == name]
            elsewhere = [cell for cell in self._given if cell.kind == "code" and _defines(cell.source, name)]
            fault = "not a code cell" if marked and all(cell.kind != "code" for cell in marked) else "missing"
            result = "another cell defines it" if elsewhere else "it counts as not answered"
            note(f"The answer cell of {name} is {fault}: {result}.")
            return elsewhere[-1].source[:_MAX_CHARACTERS] if elsewhere else ""
        if len({text_of(part.source) for part in parts if _defines(part.source, name)}) > 1:
            note(f"{name} is defined in more than one of its cells: the last one above its check counts.")
        text = "\n\n".join(part.source.strip("\n") for part in parts)
        if len(text) > _MAX_CHARACTERS:
            note(f"The answer to {name} is longer than {_MAX_CHARACTERS:,} characters: it was not run.")
            parts.clear()
            return ""
        if _MARKER.search(text):
            note(f"The answer to {name} had nbval markers: they were removed.")
        return _MARKER.sub("", text)

    def cells(self) -> Iterator[SourceCell]:
        """Yield the cells to run, in order."""
        yield from self._own(-1)
        for index, cell in enumerate(self._source.cells):
            name = cell.answers
            changed = [item for item in self._versions[index] if text_of(item.source) != text_of(cell.source)]
            added = [SourceCell(f"{cell.cell_id}+", additions_code(item.source, cell.source)) for item in changed[-1:]]
            if cell.checks and cell.checks != name:
                self._note_check(cell, changed)
                yield from added
            if name is None:
                yield cell
                yield from [] if cell.checks else added
            elif not self._parts[name]:
                yield dataclasses.replace(cell, source="")
            if name or cell is not self._source.cells[-1]:  # nothing is asked for behind the last cell
                yield from self._own(index, cell if name else None)

    def _own(self, index: int, answer: SourceCell | None = None) -> Iterator[SourceCell]:
        """Yield the cells that follow one of the instructor's: the student's own, and the parts of an answer."""
        parts = self._parts[answer.answers] if answer and answer.answers else []
        for number, cell in enumerate(self._behind[index]):
            text = _MARKER.sub("", cell.source)
            if answer and any(cell is part for part in parts):
                cell_id = answer.cell_id if cell is parts[0] else f"{answer.cell_id}+{number}"
                yield dataclasses.replace(answer, cell_id=cell_id, source=text)
            elif len(text) <= _MAX_CHARACTERS:
                yield SourceCell(f"own-{index + 1}-{number}", text)

    def _place(self, code: Sequence[Cell]) -> None:
        homes = self._homes(code)
        checks = {cell.checks: index for index, cell in enumerate(self._source.cells) if cell.checks}
        last = {home: at for at, home in enumerate(homes)}
        ends = {name: last.get(index, len(code)) for name, index in checks.items()}
        above = _OWN
        for at, (cell, home) in enumerate(zip(code, homes, strict=True)):
            name = self._source.cells[home].answers if home >= 0 else None
            if name and self._parts[name] and at > ends.get(name, len(code)):
                if _defines(cell.source, name):
                    self.problems.append(f"A copy of the answer cell of {name} is below its check: it was not graded.")
                self._behind[above].append(cell)
            elif name:
                self._parts[name].append(cell)
                self._behind[home].append(cell)
            elif home >= 0:
                self._versions[home].append(cell)
            elif home == _OWN:
                self._behind[above].append(cell)
            above = home if home >= 0 else above

    def _homes(self, code: Sequence[Cell]) -> list[int]:
        """Return the index of the instructor's cell that each cell is, by mark, id or text."""
        cells = self._source.cells
        marks = {f"check-{cell.checks}": index for index, cell in enumerate(cells) if cell.checks}
        marks |= {cell.answers: index for index, cell in enumerate(cells) if cell.answers}
        by_id = {cell.cell_id: index for index, cell in enumerate(cells)}
        by_text = {text_of(cell.source): index for index, cell in reversed([*enumerate(cells)])}

        def home(cell: Cell) -> int:
            text = text_of(cell.source)
            places = (marks.get(cell.grade_id), by_id.get(cell.cell_id), by_text.get(text))
            known = not text or cell.cell_id in self._source.cell_ids or text in self._source.texts
            return next((place for place in places if place is not None), _NOT_RUN if known else _OWN)

        homes = [home(cell) for cell in code]
        found = {cells[place].answers for place in homes if place >= 0}
        spare = {_OWN, *(index for index, cell in enumerate(cells) if cell.checks and not cell.answers)}
        for name in [name for name in self._source.exercises if name not in found]:  # in the notebook's order
            for at, cell in enumerate(code):
                homes[at] = marks[name] if homes[at] in spare and _defines(cell.source, name) else homes[at]
        return homes

    def _note_check(self, cell: SourceCell, changed: Sequence[Cell]) -> None:
        found = self._versions[self._source.cells.index(cell)]
        if not found:
            self.problems.append(f"The check cell of {cell.checks} is missing: the instructor's was run.")
        elif changed:
            self.problems.append(f"The check cell of {cell.checks} was changed: the instructor's was run.")


def _defines(source: str, name: str) -> bool:
    """Return whether a cell binds a name."""
    binding = rf"^[ \t]*(?:async\s+)?(?:def|class)\s+{name}\b|^(?:\w+ *, *)*{name} *(?::[^=\n]*|,[\w ,]*)?=(?!=)"
    return bool(re.search(binding, source, re.MULTILINE))
