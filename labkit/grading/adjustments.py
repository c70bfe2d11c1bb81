"""Manual grade adjustments (late days, corrections): ``adjustments.csv``, which grading never overwrites."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path

from labkit.checks import nearest
from labkit.errors import GradingError
from labkit.grading.csv_files import read_csv
from labkit.output_files import write_atomic

_COLUMNS = ("student", "notebook", "factor", "points", "reason")


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """An adjustment of a notebook's points: multiply by a factor, then add points (negative: subtract)."""

    student: str
    notebook: str
    factor: float = 1.0
    points: float = 0.0
    reason: str = ""  # appears on the student's feedback page


def read_adjustments(out: Path, students: Mapping[str, str], notebooks: Collection[str]) -> list[Adjustment]:
    """Read ``adjustments.csv``; create it with a header line if missing.

    ``students`` maps each name that the file may use to the student. A line that matches no student or notebook is an error.
    """
    path = out / "adjustments.csv"
    if not path.exists():
        write_atomic(path, ",".join(_COLUMNS) + "\n")
    file = read_csv(path)
    columns = {name.strip().casefold(): index for index, name in enumerate(file.rows[0] if file.rows else ())}
    if missing := [name for name in _COLUMNS[:2] if name not in columns]:
        raise GradingError(f"{path} has no column {', '.join(missing)}: it needs {', '.join(_COLUMNS)}")
    if unknown := [name for name in columns if name and name not in _COLUMNS]:
        raise GradingError(f"{path} has an unknown column {unknown[0]!r}: it needs {', '.join(_COLUMNS)}")
    found = []
    for line, row in zip(file.lines[1:], file.rows[1:], strict=True):
        if any(cell.strip() for cell in row[len(file.rows[0]) :]):
            raise GradingError(f"{path}, line {line}: more cells than columns: put quotes around a reason with commas")
        cells = {name: row[columns[name]].strip() if columns.get(name, len(row)) < len(row) else "" for name in _COLUMNS}
        if any(cells.values()):
            found.append(_adjustment(f"{path}, line {line}", cells, file.delimiter, students, notebooks))
    return found


def _adjustment(
    where: str, cells: Mapping[str, str], delimiter: str, students: Mapping[str, str], notebooks: Collection[str]
) -> Adjustment:
    student = unicodedata.normalize("NFC", cells["student"])
    notebook = cells["notebook"].removesuffix(".ipynb")
    for kind, name, known in (("student", student, students.keys()), ("notebook", notebook, notebooks)):
        if name not in known:
            near = nearest(name, known)
            raise GradingError(
                f"{where}: no {kind} {name!r}" + (f" (did you mean {near!r}?)" if near else "") + ": fix the line"
            )
    numbers: dict[str, float] = {}
    for name, default in (("factor", 1.0), ("points", 0.0)):
        text = cells[name] if delimiter == "," else cells[name].replace(",", ".")
        try:
            number = float(text) if text else default
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or (name == "factor" and number < 0):
            raise GradingError(
                f"{where}: {name} {cells[name]!r} must be a finite number{', at least 0,' * (name == 'factor')} or empty"
            )
        numbers[name] = number
    return Adjustment(students[student], notebook, **numbers, reason=cells["reason"])
