"""Late days, mercy and mistakes of the grader: a table beside the grades that grading never writes over."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

from labkit.errors import GradingError

__all__ = ["Adjustment", "read_adjustments"]

_COLUMNS = ("student", "notebook", "factor", "points", "reason")


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """What is done to the points of a student's notebook: times a factor, then so many more or fewer.

    Parameters
    ----------
    student : str
        As the grades call them.
    notebook : str
    factor, points : float
    reason : str
        The student reads it.
    """

    student: str
    notebook: str
    factor: float = 1.0
    points: float = 0.0
    reason: str = ""


def read_adjustments(out: Path) -> list[Adjustment]:
    """Read ``adjustments.csv``; a file with its columns alone is made where there is none.

    Raises
    ------
    GradingError
        When a line of it cannot be read.
    """
    path = out / "adjustments.csv"
    if not path.exists():
        path.write_text(",".join(_COLUMNS) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream)
        if missing := set(_COLUMNS[:2]) - set(rows.fieldnames or ()):
            raise GradingError(f"{path} has no column {', '.join(sorted(missing))}: its columns are {', '.join(_COLUMNS)}")
        return [_adjustment(path, number, row) for number, row in enumerate(rows, start=2)]


def _adjustment(path: Path, number: int, row: dict[str, str]) -> Adjustment:
    try:
        factor, points = float(row.get("factor") or 1), float(row.get("points") or 0)
        return Adjustment(row["student"], row["notebook"], factor, points, row.get("reason") or "")
    except (ValueError, TypeError):
        raise GradingError(f"{path}, line {number}: factor and points are numbers, or nothing") from None
