"""nbgrader, in its own environment, releases and grades the source notebooks; labkit grades what nbgrader collected."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.course import check
from labkit.course.checks import known_exercises
from labkit.course.release import release_course
from labkit.course.source import read_source
from labkit.grading.grade import grade_course
from tests.grading import why_no_sandbox

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
NBGRADER = "nbgrader==0.9.6"
ASSIGNMENT = "course"
HANDED_IN = ("03_inside_gguf", "05_sampling")  # the fastest to run
WRONG = "softmax_at"
MISTAKEN = f"from labkit.course.checks import known_exercises\n\n{WRONG} = known_exercises()['{WRONG}'].mistakes[0].answer"
POINTS_OF = """
    SELECT student_id, base_cell.name, grade.auto_score
    FROM grade
    JOIN base_cell ON base_cell.id = grade.cell_id
    JOIN submitted_notebook ON submitted_notebook.id = grade.notebook_id
    JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
"""


def test_check_raises_under_nbgrader_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong answer is reported, and raised as an error only if nbgrader runs the cell; a correct one is reported."""
    name = "writing_speed"
    assert not check(name, lambda n, seconds: n * seconds).passed
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(AssertionError, match=f"{name}: not yet. The same text in more seconds"):
        check(name, lambda n, seconds: n * seconds)
    with pytest.raises(AssertionError, match="'names_that_fit' is not defined"):
        check("names_that_fit")
    assert check(name, lambda n, seconds: n / seconds).passed


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release all notebooks and grade three students with nbgrader, as docs/nbgrader.md describes."""
    folder = tmp_path_factory.mktemp("nbgrader")
    run = _nbgrader(folder / "tools")
    place = folder / "class"
    (place / "source" / ASSIGNMENT).mkdir(parents=True)
    for path in SOURCES:
        shutil.copy(path, place / "source" / ASSIGNMENT)
    (config,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "nbgrader.md").read_text(encoding="utf-8"), re.DOTALL)
    (place / "nbgrader_config.py").write_text(config, encoding="utf-8")
    run(place, "generate_assignment", ASSIGNMENT)
    for name in HANDED_IN:
        _hand_in(place, name)
    run(place, "autograde", ASSIGNMENT)
    return place


def _nbgrader(folder: Path) -> Any:
    """Install nbgrader in a separate environment whose kernel ``python3`` is the Python of these tests."""
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "this test needs uv: pip install uv"
    bin_folder = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    places = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **places, "JUPYTER_PATH": str(folder / "jupyter")}
    path = os.pathsep.join([str(bin_folder), os.environ.get("PATH", os.defpath)])  # nbgrader finds alembic on PATH
    environment |= {"HF_HUB_OFFLINE": "1", "IPYTHONDIR": str(folder / "ipython"), "PATH": path}
    for name in ("LABKIT_MODEL", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    install = ["pip", "install", "-q", "--python", str(folder / "venv"), "-c", str(ROOT / "constraints.txt"), NBGRADER]
    for arguments in (["venv", "-q", "--python", sys.executable, str(folder / "venv")], install):
        done = subprocess.run([uv, *arguments], capture_output=True, env=environment)
        assert done.returncode == 0, f"uv {arguments[0]} failed"  # its output would name the package index

    def run(place: Path, *arguments: str) -> None:
        command = [str(bin_folder / "nbgrader"), *arguments]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

    return run


def _hand_in(place: Path, name: str) -> None:
    """Submit for three students from nbgrader's release: all correct, one known mistake, nothing written."""
    solutions = {cell.answers: cell.source for cell in read_source(place / "source" / ASSIGNMENT / f"{name}.ipynb").cells}
    for student, answers in {"right": solutions, "stubs": {}, "mistaken": {**solutions, WRONG: MISTAKEN}}.items():
        notebook = _read(place / "release" / ASSIGNMENT / f"{name}.ipynb")
        for cell in notebook.cells:
            marks = cell.metadata.get("nbgrader", {})
            if marks.get("solution"):
                cell.source = answers.get(marks.grade_id, cell.source)
        path = place / "submitted" / student / ASSIGNMENT / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


def _read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def _expected() -> dict[tuple[str, str], float]:
    """Return the points that each student should get, by exercise."""
    names = {name for path in SOURCES if path.stem in HANDED_IN for name in read_source(path).points}
    points = {name: known_exercises()[name].points for name in names}
    right = {("right", name): float(most) for name, most in points.items()}
    mistaken = {("mistaken", name): 0.0 if name == WRONG else float(most) for name, most in points.items()}
    return {**right, **mistaken, **{("stubs", name): 0.0 for name in points}}


def _words(cell: Any) -> str:
    """Return a cell's source, with links in text replaced by their words: labkit rewrites them for the released folder."""
    text = str(cell.source).rstrip("\n")
    return text if cell.cell_type == "code" else re.sub(r"\[([^\]]+)\]\(\.{0,2}/?(?:docs/|README)[^)]*\)", r"\1", text)


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_nbgrader_releases_what_labkit_releases(course: Path, tmp_path: Path) -> None:
    """Both releases have the same cells except for points above checks and link targets; neither has a solution."""
    release_course(course / "source" / ASSIGNMENT, tmp_path)
    assert [path.name for path in sorted((course / "release" / ASSIGNMENT).glob("*.ipynb"))] == [
        path.name for path in SOURCES
    ]
    for path in SOURCES:
        theirs, ours = (_read(folder / path.name).cells for folder in (course / "release" / ASSIGNMENT, tmp_path))
        assert [cell.id for cell in theirs] == [cell.id for cell in ours]
        for one, other in zip(theirs, ours, strict=True):
            assert _words(one) == re.sub(r"\A# [0-9.]+ points?\n", "", _words(other))
            assert "SOLUTION" not in one.source
            assert not one.get("outputs")


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_nbgrader_awards_the_points(course: Path) -> None:
    """Solutions get all points, stubs none, and a known mistake loses only its own exercise's points."""
    with contextlib.closing(sqlite3.connect(course / "gradebook.db")) as book:
        rows = book.execute(POINTS_OF).fetchall()
    expected = _expected()
    given = {(student, name.removeprefix("check-")): points for student, name, points in rows}
    assert {key: given.get(key) for key in expected} == expected
    for name in HANDED_IN:  # and no other cell fails
        cells = _read(course / "autograded" / "right" / ASSIGNMENT / f"{name}.ipynb").cells
        assert not [cell.id for cell in cells if any(output.output_type == "error" for output in cell.get("outputs", ()))]


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "sandbox works")
def test_labkit_grades_what_nbgrader_collected(course: Path, tmp_path: Path) -> None:
    """The submitted/ and source/ folders of nbgrader are graded unchanged, with the same points."""
    result = grade_course(course / "source" / ASSIGNMENT, course / "submitted", tmp_path / "grades", seed=1)
    assert result.problems == ()
    assert all(grade.problems == () for grade in result.grades)
    given = {(grade.student, item.name): item.points for grade in result.grades for item in grade.exercises}
    assert given == _expected()
