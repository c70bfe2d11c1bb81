"""Fill grades into a learning system's own export, so that it imports unchanged; no match is a guess.

References
----------
Canvas ``lib/gradebook_importer.rb``; Moodle ``grade/import/csv`` and ``mod/assign/feedback/offline``.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from labkit.errors import ArgumentError, GradingError
from labkit.grading.csv_files import CsvFile, read_csv
from labkit.grading.learning_systems import CANVAS, PARTICIPANT
from labkit.grading.submissions import Student
from labkit.grading.untrusted_text import visible
from labkit.output_files import user_path, write_atomic
from labkit.records import Record

TOTAL = "total"
_POINTS_POSSIBLE = "points possible"  # Canvas's row above the students
_ID = re.compile(
    r"\b(?:id|sid|ids|orgdefinedid|login|user ?name|user|identifier|e-?mail|courriel|matrikel\w*)\b", re.IGNORECASE
)
_NAMES = ("student", "name", "full name", "fullname", "student name")
_FIRST, _LAST = ("first name", "firstname", "vorname", "prénom"), ("last name", "lastname", "surname", "nachname", "nom")
_OTHER_SCALE = re.compile(r"\((?:percentage|letter|feedback|prozent\w*|notenstufe)\)|feedback", re.IGNORECASE)
_FROM_SYSTEM = {"email address", "identifier", "id number", "orgdefinedid"}  # exports that take no new columns
_KEPT = {"ex", "n/a"}  # Canvas: excused, or not assigned to the student


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class FilledRoster(Record):
    """What was filled into a roster."""

    file: str
    cells: int  # filled
    without_submission: tuple[str, ...]  # names of its students who handed in nothing
    problems: tuple[str, ...]


class Roster:
    """A class list: Canvas's gradebook export, Moodle's grade export, or any CSV file with an id column."""

    def __init__(
        self, path: str | Path, notebooks: Collection[str], columns: Sequence[str] = (), *, match_names: bool = False
    ) -> None:
        """Read the file; ``columns`` are ``NOTEBOOK=HEADER`` for columns whose names differ from the notebooks'."""
        self._file: CsvFile = read_csv(user_path(path))
        rows = self._file.rows
        self._header = [cell.strip() for cell in rows[0]] if rows else []
        folded = [_fold(cell) for cell in self._header]
        self._canvas = "section" in folded and folded[:1] in (["student"], ["lastname"])
        self._ids = [index for index, name in enumerate(self._header) if _ID.search(name) and not re.search("[:(]", name)]
        if self._canvas:  # an assignment may be called "User study"
            self._ids = [index for index in self._ids if index < folded.index("section")]
        if not self._ids:
            raise GradingError(f"{self._file.path} has no id column: it needs one such as ID, SIS Login ID or Email address")
        self._names = [[index] for index, name in enumerate(folded) if name in _NAMES][:1]
        if any(name in _FIRST for name in folded) and any(name in _LAST for name in folded):
            self._names = [[next(i for i, name in enumerate(folded) if name in part) for part in (_FIRST, _LAST)]]
        self._match_names = match_names
        self._possible = next((row for row in rows[1:] if row and _fold(row[0]) == _POINTS_POSSIBLE), [])
        self._students = [
            number
            for number, row in enumerate(rows)
            if number and row is not self._possible and any(self._cell(number, index) for index in self._ids)
        ]
        self._columns = self._find_columns(sorted(notebooks), columns)

    def fill(
        self, out: Path, students: Sequence[Student], points: Mapping[tuple[str, str], tuple[float, float]]
    ) -> FilledRoster:
        """Write the file with the class's points (and the notebooks' full points) as ``import-NAME`` into a folder."""
        matched, problems = self._match(students)
        cells = 0
        for notebook, column in self._columns.items():
            full = max((of_points for (_, name), (_, of_points) in points.items() if name == notebook), default=0.0)
            possible = self._possible[column].strip() if column < len(self._possible) else ""
            if "read only" in possible:
                problems.append(f"the column {self._header[column]!r} is read-only in Canvas: not filled")
                continue
            if full and _number(possible) not in (None, full):
                problems.append(
                    f"{notebook} has {full:g} points, the column {self._header[column]!r} {possible}: not scaled"
                )
            for student, row in matched.items():
                if (student, notebook) in points:
                    cells += self._fill_cell(row, column, points[student, notebook][0], problems)
        target = out / f"import-{self._file.path.name}"
        write_atomic(target, self._file.content())
        here = set(matched.values())
        missing = tuple(visible(self._name(row)) for row in self._students if row not in here)
        return FilledRoster(str(target), cells, missing, tuple(problems))

    def _fill_cell(self, row: int, column: int, value: float, problems: list[str]) -> int:
        old = self._cell(row, column)
        if self._canvas and _fold(old) in _KEPT:
            problems.append(f"{visible(self._name(row))}, {self._header[column]!r}: the roster has {old}, which was kept")
            return 0
        text = f"{value:.10g}"
        self._file.set(row, column, text.replace(".", ",") if self._decimal_comma(column) else text)
        return 1

    def _decimal_comma(self, column: int) -> bool:
        """Return whether the file writes numbers such as 3,50: only possible if commas do not separate cells."""
        cells = [self._cell(row, column) for row in range(1, len(self._file.rows))]
        return self._file.delimiter != "," and any(re.fullmatch(r"\d+,\d+", cell) for cell in cells)

    def _match(self, students: Sequence[Student]) -> tuple[dict[str, int], list[str]]:
        """Return the row of each student that has exactly one, and messages about the others."""
        problems: list[str] = []
        rows = {student.student: self._rows_of(student, students) for student in students}
        taken: dict[int, list[str]] = {}
        for student in students:
            found = rows[student.student]
            if len(found) == 1:
                taken.setdefault(found[0], []).append(student.student)
            else:
                problems.append(
                    f"{student.display_name}: {self._not_matched(student, found)}; the grade is only in grades.csv"
                )
        shown = {student.student: student.display_name for student in students}
        for row, several in taken.items():
            if len(several) > 1:
                names = " and ".join(shown[name] for name in several)
                problems.append(
                    f"{names}: all match line {self._file.lines[row]} of the roster; not filled: make them one student"
                )
        return {several[0]: row for row, several in taken.items() if len(several) == 1}, problems

    def _rows_of(self, student: Student, students: Sequence[Student]) -> list[int]:
        """Return the rows with one of a student's ids; with ``match_names`` otherwise those of a unique full name."""
        found = {row for one in student.ids for row in self._rows_with(one, student.name)}
        same_name = [other for other in students if _fold(other.name) == _fold(student.name)]
        if not found and self._match_names and len(same_name) == 1:
            found = {row for row in self._students if self._has_name(row, student.name)}
        return sorted(found)

    def _rows_with(self, one: str, name: str) -> list[int]:
        """Return the rows with an id; a number of a Moodle participant is an id number only if the names agree."""
        columns, extra = self._ids, []
        if one.startswith(CANVAS):
            one = one.removeprefix(CANVAS)
            columns = [index for index in self._ids if not self._canvas or self._header[index] == "ID"]
        elif one.startswith(PARTICIPANT):
            rows = self._rows_equal(one.removeprefix(PARTICIPANT), columns)
            extra = [row for row in rows if not self._names or self._has_name(row, name)]
        return extra + self._rows_equal(one, columns)

    def _rows_equal(self, text: str, columns: Sequence[int]) -> list[int]:
        # Brightspace writes # before each id
        ids = {row: {_fold(self._cell(row, index)).removeprefix("#") for index in columns} for row in self._students}
        return [row for row in self._students if _fold(text) in ids[row]]

    def _not_matched(self, student: Student, found: Sequence[int]) -> str:
        if found:
            lines = ", ".join(str(self._file.lines[row]) for row in found)
            return f"lines {lines} of the roster match, so none was filled"
        same = [row for row in self._students if self._has_name(row, student.name)]
        if same and not self._match_names:
            line = self._file.lines[same[0]]
            return f"no id in the roster; line {line} has the same name (--match-names accepts unique names)"
        return "no id in the roster matches"

    def _find_columns(self, notebooks: Sequence[str], given: Sequence[str]) -> dict[str, int]:
        """Return the column of each notebook; without a learning system's header, missing ones are added."""
        columns: dict[str, int] = {}
        for text in given:
            notebook, equals, header = text.partition("=")
            if not equals or notebook not in (*notebooks, TOTAL) or header.strip() not in self._header:
                names = ", ".join((*notebooks, TOTAL))
                raise ArgumentError(
                    f"--column {text!r}: it needs NOTEBOOK=HEADER, a notebook of {names} and a header of the roster"
                )
            columns[notebook] = self._header.index(header.strip())
        for notebook in notebooks:
            if notebook not in columns:
                found = [index for index, name in enumerate(self._header) if _is_column_of(name, notebook)]
                if len(found) > 1:
                    names = " and ".join(repr(self._header[index]) for index in found)
                    raise GradingError(
                        f"{self._file.path}: {names} are columns of {notebook}: choose with --column {notebook}=HEADER"
                    )
                columns |= {notebook: found[0]} if found else {}
        from_system = self._canvas or any(_fold(name) in _FROM_SYSTEM for name in self._header)
        if not from_system:
            for notebook in notebooks:
                if notebook not in columns:
                    columns[notebook] = len(self._header)
                    self._header.append(notebook)
                    self._file.set(0, columns[notebook], notebook)
        if not columns:
            names = ", ".join(notebooks)
            raise GradingError(
                f"{self._file.path} has no column for {names}: add it in the learning system, or pass --column"
            )
        return columns

    def _cell(self, row: int, column: int) -> str:
        cells = self._file.rows[row]
        return cells[column].strip() if column < len(cells) else ""

    def _name(self, row: int) -> str:
        names = [" ".join(self._cell(row, index) for index in columns).strip() for columns in self._names]
        return next(filter(None, (*names, *(self._cell(row, index) for index in self._ids))), "")

    def _has_name(self, row: int, name: str) -> bool:
        last, comma, first = self._name(row).partition(",")
        return bool(self._names) and _fold(f"{first} {last}" if comma else last) == _fold(name)


def _is_column_of(header: str, notebook: str) -> bool:
    """Return whether a header names a notebook: also with what learning systems add.

    Canvas writes ``NAME (1)``, Moodle ``Assignment: NAME (Real)``, Blackboard ``NAME [Total Pts: 4 Score] |1``, Brightspace
    ``NAME Points Grade <Numeric MaxPoints:4>``.
    """
    bare = re.sub(r"\s*(?:\([^()]*\)|\[[^]]*\].*|\w+ Grade <[^<>]*>)$", "", header)
    names = (header, bare, re.sub(r"^[^:]*:\s*", "", bare))
    return not _OTHER_SCALE.search(header) and _words(notebook) in map(_words, names)


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", _fold(text)).strip()


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None
