"""Estimate the minutes for each step of a notebook from its cells; write them to the headings, the opening and the map.

::

    python tools/section_times.py            # all of notebooks/

For a first-time reader: 150 words per minute, 6 seconds per line of code, 10 seconds per output, a minute per guess, 4 per
explorer, 3 for the questions at the end, and for an exercise its stated time. Appendices are optional: they have
minutes, but the total is without them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
STEP = re.compile(r"^## (\d+|Appendix [A-Z])\. (.*?)(?: · \d+ min)?$", re.MULTILINE)
TIME = re.compile(r"(\*\*Time:\*\* )\d+( minutes)")
MAP_ROW = re.compile(r"^(\| (\d\d) \| [^|]*\| )(\d+|–)( \|)", re.MULTILINE)


def main() -> int:
    """Update all notebooks; return the exit status."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    notebooks = {path: nbformat.read(path, as_version=4) for path in paths}
    totals = {path.stem[:2]: write_times(notebook) for path, notebook in notebooks.items()}
    for path, notebook in notebooks.items():
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = MAP_ROW.sub(lambda row: f"{row[1]}{totals.get(row[2], '–')}{row[4]}", cell.source)
        nbformat.write(notebook, path)
        print(f"{path.stem}: {totals[path.stem[:2]]} minutes")
    return 0


def write_times(notebook: Any) -> int:
    """Write the minutes into a notebook's headings and opening; return their sum, rounded to 5 minutes."""
    minutes = step_minutes(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = STEP.sub(lambda step: f"## {step[1]}. {step[2]} · {minutes[step[1]]} min", cell.source)
    total = total_minutes(minutes)
    opening = notebook.cells[0]
    opening.source = TIME.sub(rf"\g<1>{total}\g<2>", opening.source)
    return total


def total_minutes(minutes: dict[str, int]) -> int:
    """Return the sum without appendices, rounded to 5 minutes."""
    return 5 * round(sum(value for name, value in minutes.items() if not name.startswith("Appendix")) / 5)


def step_minutes(cells: list[Any]) -> dict[str, int]:
    """Return the minutes per step by number; "" is the part before step 1, "end" the part after the last step."""
    found, step = {"": 0.0}, ""
    for cell in cells:
        heading = STEP.search(cell.source) if cell.cell_type == "markdown" else None
        step = heading[1] if heading else "end" if cell.source.startswith(("## The same in llama.cpp", "## Recap")) else step
        found[step] = found.get(step, 0.0) + cell_minutes(cell)
    return {name: max(1, round(value)) for name, value in found.items()}


def cell_minutes(cell: Any) -> float:
    """Return the minutes for a cell."""
    if cell.cell_type == "markdown":
        exercises = re.findall(r"\*\*Exercise\*\* \((\d+) minutes", cell.source)
        words = re.findall(r"\w[\w'’.,-]*", re.sub(r"\]\([^)]*\)", "]", cell.source))
        questions = 3 if "Three questions to take away" in cell.source else 0
        return len(words) / 150 + sum(map(int, exercises)) + questions
    if cell.metadata.get("nbgrader"):  # included in the exercise's stated time
        return 0.0
    guess = 1.0 if "= predict(" in cell.source else 0.0
    explorer = 4.0 if "labkit.explore(" in cell.source else 0.0
    return guess + explorer + (0.0 if guess else len(cell.source.splitlines()) / 10 + 1 / 6)


if __name__ == "__main__":
    sys.exit(main())
