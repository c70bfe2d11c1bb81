"""Helpers for the grading tests: a small notebook with exercises, and submissions of it."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

from labkit.errors import GradingError
from labkit.grading.sandbox.limits import Limits
from labkit.grading.sandbox.start import require_sandbox

NAME = "hw"
LIMITS = Limits(cell_s=20.0, total_s=120.0, memory_bytes=600 << 20, processes=40, output_bytes=300_000, file_bytes=8 << 20)
SHORT = dataclasses.replace(LIMITS, cell_s=3.0, total_s=12.0)  # for answers that never end
SOLUTIONS = {
    "softmax_at": (
        "def softmax_at(logits, temperature):\n"
        "    ### BEGIN SOLUTION\n"
        "    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]\n"
        "    return [weight / sum(weights) for weight in weights]\n"
        "    ### END SOLUTION"
    ),
    "count_min_p": (
        "def count_min_p(shares, min_p):\n"
        "    ### BEGIN SOLUTION\n"
        "    return sum(share >= min_p * max(shares) for share in shares)\n"
        "    ### END SOLUTION"
    ),
}
STUB = "def {name}(*given):\n    raise NotImplementedError"
POINTS = {"softmax_at": 2, "count_min_p": 2}


def why_no_sandbox() -> str:
    """Return why no sandbox works here; empty if one does."""
    try:
        require_sandbox()
    except GradingError as error:
        return str(error)
    return ""


def source_notebook() -> dict[str, Any]:
    """Return the instructor's notebook."""
    cells = [_code("setup", "import math\n\nfrom labkit.course import check")]
    for name, solution in SOLUTIONS.items():
        cells.append(_code(f"solve-{name}", solution, grade_id=name, solution=True))
        cells.append(_code(f"check-{name}", f'check("{name}")', grade_id=f"check-{name}", grade=True, points=POINTS[name]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _code(cell_id: str, source: str, **marks: Any) -> dict[str, Any]:
    known = {"schema_version": 3, "grade": False, "solution": False, "task": False, "cell_type": "code"}
    metadata = {"nbgrader": {**known, "locked": bool(marks.get("grade")), **marks}} if marks else {}
    cell = {"cell_type": "code", "id": cell_id, "metadata": metadata, "source": source}
    return {**cell, "outputs": [], "execution_count": None}


def handed_in(answers: dict[str, str] | None = None, **others: str) -> dict[str, Any]:
    """Return a submission with these answers, and the solution for all others."""
    notebook = copy.deepcopy(source_notebook())
    for name, text in {**(answers or {}), **others}.items():
        cell(notebook, f"solve-{name}")["source"] = text
    return notebook


def cell(notebook: dict[str, Any], cell_id: str) -> dict[str, Any]:
    """Return a cell by id."""
    found: dict[str, Any] = next(item for item in notebook["cells"] if item["id"] == cell_id)
    return found


def write(folder: Path, student: str, notebook: dict[str, Any] | str) -> Path:
    """Write a student's submission."""
    path = folder / student / f"{NAME}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook if isinstance(notebook, str) else json.dumps(notebook), encoding="utf-8")
    return path


def write_source(folder: Path) -> Path:
    """Write the instructor's notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.ipynb"
    path.write_text(json.dumps(source_notebook()), encoding="utf-8")
    return path
