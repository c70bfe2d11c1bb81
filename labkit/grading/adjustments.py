"""Manual grade adjustments (late days, corrections): ``adjustments.csv``, which grading never overwrites."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

from labkit.errors import GradingError

_COLUMNS = ("student", "notebook", "factor", "points", "reason")


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """An adjustment of a notebook's points: multiply by a factor, then add points (negative: subtract)."""

    student: str
    notebook: str
    factor: float = 1.0
    points: float = 0.0
    reason: str = ""  # appears on the student's feedback page


def read_adjustments(out: Path) -> list[Adjustment]:
    """Read ``adjustments.csv``; create it with a header line if missing."""
    path = out / "adjustments.csv"
    if not path.exists():
        path.write_text(",".join(_COLUMNS) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream)
        if missing := set(_COLUMNS[:2]) - set(rows.fieldnames or ()):
            raise GradingError(f"{path} has no column {', '.join(sorted(missing))}: it needs {', '.join(_COLUMNS)}")
        return [_adjustment(path, number, row) for number, row in enumerate(rows, start=2)]


def _adjustment(path: Path, number: int, row: dict[str, str]) -> Adjustment:
    try:
        factor, points = float(row.get("factor") or 1), float(row.get("points") or 0)
        return Adjustment(row["student"], row["notebook"], factor, points, row.get("reason") or "")
    except (ValueError, TypeError):
        raise GradingError(f"{path}, line {number}: factor and points must be numbers or empty") from None
