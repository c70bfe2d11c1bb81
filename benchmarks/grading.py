"""Grading a class vs. plain pytest --nbval: submissions per minute, overhead of the sandbox, scaling with class size.

The notebook is the one of the tests: two exercises, no model, honest answers with outputs. nbval runs all submissions in one
process, as an instructor would without labkit; labkit runs two in parallel, each rebuilt and in its own sandbox.

    uv run benchmarks/grading.py [--submissions 24] [--repeats 3]
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from common import median, report
from nbclient import NotebookClient

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from labkit.course.source import SourceNotebook, read_source
from labkit.grading.grade import grade_course
from labkit.grading.rebuild import rebuild
from labkit.grading.run_notebook import run_notebook
from labkit.grading.sandbox.limits import Limits
from labkit.grading.tasks import TaskBuilder
from tests.grading import NAME, handed_in, write, write_source

GOAL_SPEED, GOAL_OVERHEAD, GOAL_FLAT = 1.7, 0.15, 1.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = read_source(write_source(folder / "source"))
        notebook = _run(handed_in())
        for number in range(args.submissions):
            write(folder / "submissions", f"s{number:03}", notebook)
            if number < args.submissions // 4:
                write(folder / "quarter", f"s{number:03}", notebook)
        times = _times(folder, source, nbformat.writes(notebook).encode(), args.repeats)
    count = args.submissions
    speed = times["nbval"] / times["labkit -j 2"]
    overhead = (times["one, sandbox and rebuild"] - times["one, bare kernel"]) / times["one, bare kernel"]
    flat = (times["labkit -j 2"] / count) / (times["labkit -j 2, a quarter"] / (count // 4))
    rows = [
        ("pytest --nbval, one by one", f"{60 * count / times['nbval']:.0f} per minute", "1"),
        ("labkit grade -j 2", f"{60 * count / times['labkit -j 2']:.0f} per minute", f"{speed:.2f}"),
        (
            "labkit grade -j 1",
            f"{60 * count / times['labkit -j 1']:.0f} per minute",
            f"{times['nbval'] / times['labkit -j 1']:.2f}",
        ),
        ("one notebook: bare kernel", f"{1000 * times['one, bare kernel']:.0f} ms", "1"),
        ("one notebook: sandbox and rebuild", f"{1000 * times['one, sandbox and rebuild']:.0f} ms", f"{1 + overhead:.2f}"),
        ("time per notebook, whole class / a quarter", "", f"{flat:.2f}"),
    ]
    goals = {"speed": speed >= GOAL_SPEED, "overhead": overhead < GOAL_OVERHEAD, "flat": flat < GOAL_FLAT}
    results: dict[str, Any] = {"submissions": count, "speed": speed, "overhead": overhead, "flat": flat, "goals": goals}
    headings = ("measurement", "speed or time", "ratio")
    report(f"Grading {count} honest submissions", headings, rows, {**results, "seconds": times})


def _run(notebook: dict[str, Any]) -> Any:
    """Return the notebook with outputs, as students submit it."""
    node = nbformat.from_dict(notebook)
    NotebookClient(node).execute()
    return node


def _times(folder: Path, source: SourceNotebook, content: bytes, repeats: int) -> dict[str, float]:
    """Return the median seconds per variant; the variants alternate, so that background load affects all of them."""

    def grade(submissions: str, jobs: int) -> None:
        with tempfile.TemporaryDirectory() as out:
            result = grade_course(folder / "source", folder / submissions, Path(out, "grades"), jobs=jobs, seed=1)
            assert all(grade.points == 4 for grade in result.grades)

    def nbval() -> None:
        paths = sorted(map(str, (folder / "submissions").glob(f"*/{NAME}.ipynb")))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--nbval",
            "--rootdir",
            str(folder),
            *paths,
        ]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    builder = TaskBuilder(folder, {NAME: source}, 1, Limits(), (), unsafe=False)
    cells = rebuild(source, content).cells
    bare = dataclasses.replace(builder.job(source, cells), unsafe=True)
    variants: dict[str, Callable[[], object]] = {
        "nbval": nbval,
        "labkit -j 2": lambda: grade("submissions", 2),
        "labkit -j 1": lambda: grade("submissions", 1),
        "labkit -j 2, a quarter": lambda: grade("quarter", 2),
    }
    one: dict[str, Callable[[], object]] = {
        "one, bare kernel": lambda: run_notebook(bare),
        "one, sandbox and rebuild": lambda: run_notebook(builder.job(source, rebuild(source, content).cells)),
    }
    taken: dict[str, list[float]] = {name: [] for name in (*variants, *one)}
    for _ in range(repeats):
        for name, variant in variants.items():
            taken[name].append(_seconds(variant))
        for _ in range(5):
            for name, variant in one.items():
                taken[name].append(_seconds(variant))
    return {name: median(seconds) for name, seconds in taken.items()}


def _seconds(variant: Callable[[], object]) -> float:
    begun = time.perf_counter()
    variant()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
