"""Grades on disk: one JSON file per student and notebook, written atomically; SQLite and CSV derived from them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import shutil
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.errors import ArgumentError
from labkit.grading.adjustments import Adjustment
from labkit.grading.score import ExerciseGrade
from labkit.grading.submissions import Student
from labkit.output_files import write_atomic, writing

_SCHEMA_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Grade:
    """The grade of a student's notebook; independent of when it was graded."""

    student: str
    display_name: str
    notebook: str
    checksum: str  # SHA-256 of the submitted file
    source_checksum: str  # SHA-256 of the instructor's notebook
    seed: int
    decided_by: Mapping[str, Any]  # versions and limits; if they change, the notebook is graded again
    points: float
    of_points: float
    exercises: tuple[ExerciseGrade, ...]
    problems: tuple[str, ...]  # with the submitted file
    schema_version: int = _SCHEMA_VERSION


def write_grade(out: Path, grade: Grade) -> None:
    """Write a grade atomically."""
    text = json.dumps(dataclasses.asdict(grade), indent=1, ensure_ascii=True, sort_keys=True)
    write_atomic(out / "grades" / grade.student / f"{grade.notebook}.json", text + "\n")


def read_grade(out: Path, student: str, notebook: str) -> Grade | None:
    """Return a grade; None if there is none of this schema version."""
    path = out / "grades" / student / f"{notebook}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["schema_version"] != _SCHEMA_VERSION:
            return None
        exercises = tuple(ExerciseGrade(**item) for item in found.pop("exercises"))
        return Grade(exercises=exercises, problems=tuple(found.pop("problems")), **found)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_grades(out: Path) -> list[Grade]:
    """Return all grades, by student and notebook."""
    found = (read_grade(out, path.parent.name, path.stem) for path in sorted((out / "grades").glob("*/*.json")))
    return [grade for grade in found if grade is not None]


def put_aside(out: Path, students: Collection[str], notebooks: Collection[str]) -> list[str]:
    """Move grades of students without submissions to ``gone/``, and back if they return; return who is gone."""
    gone = []
    with writing(out / "gone"):
        for path in sorted((out / "gone").glob("*/*.json")):
            back = out / "grades" / path.parent.name / path.name
            if path.parent.name in students and not back.exists():
                back.parent.mkdir(parents=True, exist_ok=True)
                path.replace(back)
        for path in sorted((out / "grades").glob("*/*.json")):
            student = path.parent.name
            if student not in students and path.stem in notebooks:
                (out / "gone" / student).mkdir(parents=True, exist_ok=True)
                path.replace(out / "gone" / student / path.name)
                gone.append(student)
        for student in set(gone):
            if not any((out / "grades" / student).iterdir()):
                (out / "grades" / student).rmdir()
                (out / "feedback" / f"{student}.html").unlink(missing_ok=True)
            shutil.rmtree(out / "times" / student, ignore_errors=True)
    return sorted(set(gone))


def write_books(out: Path, grades: Sequence[Grade], adjustments: Sequence[Adjustment], students: Sequence[Student]) -> None:
    """Write gradebook.sqlite and grades.csv."""
    temporary = out / ".gradebook.sqlite"
    try:
        with writing(temporary):
            temporary.unlink(missing_ok=True)
            _write_sqlite(temporary, grades, adjustments)
            temporary.replace(out / "gradebook.sqlite")
    except sqlite3.Error as error:
        raise ArgumentError(
            f"{out / 'gradebook.sqlite'} cannot be written: {error}: free disk space and run again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    write_atomic(out / "grades.csv", _csv(grades, adjustments, students))


def _write_sqlite(path: Path, grades: Sequence[Grade], adjustments: Sequence[Adjustment]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as book, book:
        book.executescript(
            "CREATE TABLE grades (student TEXT, display_name TEXT, notebook TEXT, graded REAL, points REAL, of_points REAL,"
            " problems TEXT, PRIMARY KEY (student, notebook));"
            "CREATE TABLE exercises (student TEXT, notebook TEXT, exercise TEXT, points REAL, of_points REAL, right INTEGER,"
            " inputs INTEGER, message TEXT, PRIMARY KEY (student, notebook, exercise));"
        )
        for grade in grades:
            row = (grade.student, grade.display_name, grade.notebook, grade.points, adjusted(grade, adjustments))
            book.execute("INSERT INTO grades VALUES (?,?,?,?,?,?,?)", (*row, grade.of_points, "\n".join(grade.problems)))
            for item in grade.exercises:
                values = (item.name, item.points, item.of_points, item.right, item.inputs, item.message)
                book.execute("INSERT INTO exercises VALUES (?,?,?,?,?,?,?,?)", (grade.student, grade.notebook, *values))


def _csv(grades: Sequence[Grade], adjustments: Sequence[Adjustment], students: Sequence[Student]) -> str:
    """Return a CSV table with a row per student, a column per notebook, and the files that are not notebooks to grade."""
    notebooks = sorted({grade.notebook for grade in grades})
    of_points = {grade.notebook: grade.of_points for grade in grades}
    points = {(grade.student, grade.notebook): adjusted(grade, adjustments) for grade in grades}
    others = {student.student: "; ".join(student.other_files) for student in students}
    names = {student.student: student.display_name for student in students}
    names |= {grade.student: grade.display_name for grade in grades}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Student", "ID", *(f"{name} ({of_points[name]:g})" for name in notebooks), "Total", "Not graded"])
    for student, name in sorted(names.items()):
        own = [points.get((student, notebook)) for notebook in notebooks]
        cells = ["" if value is None else f"{value:g}" for value in own]
        total = f"{sum(value or 0 for value in own):g}"
        writer.writerow([_escape(name), _escape(student), *cells, total, _escape(others.get(student, ""))])
    return text.getvalue()


def _escape(text: str) -> str:
    """Escape text so that spreadsheets do not evaluate it as a formula, nor terminals as control sequences."""
    printable = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return f"'{printable}" if printable[:1] in ("=", "+", "-", "@") else printable


def adjusted(grade: Grade, adjustments: Sequence[Adjustment]) -> float:
    """Return a grade's points after its adjustments; at least 0."""
    points = grade.points
    for item in adjustments:
        if (item.student, item.notebook) == (grade.student, grade.notebook):
            points = points * item.factor + item.points
    return max(0.0, round(points, 2))
