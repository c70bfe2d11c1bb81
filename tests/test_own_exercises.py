"""An instructor's exercise, written as in docs/exercises.md, is checked, tested, released and graded like the course's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import labkit
from labkit.course import check
from labkit.course.release import release_course
from labkit.course.selftest import selftest_course
from labkit.course.source import read_source
from labkit.grading.grade import grade_course
from tests.grading import LIMITS, why_no_sandbox

GUIDE = (Path(__file__).resolve().parent.parent / "docs" / "exercises.md").read_text(encoding="utf-8")
ANSWER, CHECK, FILE = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
MARKS = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)]
WRONG = "def bits_per_weight(n_bytes, n_weights):\n    return n_bytes / n_weights"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """Write the guide's notebook and its exercises.py."""
    folder = tmp_path / "course"
    folder.mkdir()
    (folder / "exercises.py").write_text(FILE, encoding="utf-8")
    _write(folder / "own.ipynb", ANSWER)
    return folder


def _write(path: Path, answer: str) -> None:
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "id": name, "metadata": marks, "source": source, "outputs": [], "execution_count": None}
        for name, marks, source in (("answer", MARKS[0], answer), ("check", MARKS[1], CHECK))
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook), encoding="utf-8")


def test_guide_passes_the_selftest(course: Path) -> None:
    """The guide's exercise has no fault; a mistake that its inputs do not detect is a fault."""
    assert [(one.name, one.n_mistakes, one.fault) for one in selftest_course(course)] == [("bits_per_weight", 3, "")]
    blind = FILE.replace("10**6), draw.randint(1, 10**6)", "9), 1").replace(
        "((34, 32), 8.5), ((1024, 512), 16.0)", "((9, 1), 72),"
    )
    (course / "exercises.py").write_text(blind, encoding="utf-8")
    fault = selftest_course(course)[0].fault
    assert fault == "a known mistake does not get its hint: Half a bit counts: is the result whole?"


def test_check_finds_the_file_next_to_the_notebook(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the notebook's folder its exercises work like the course's, with one more hint per wrong attempt."""
    with pytest.raises(labkit.ArgumentError, match="unknown exercise 'bits_per_weight'"):
        check("bits_per_weight", 1)
    monkeypatch.chdir(course)
    assert check("bits_per_weight", lambda n_bytes, n_weights: 8 * n_bytes / n_weights).passed
    assert check("bits_per_weight", lambda *given: given[0] / given[1]).message == "A byte has how many bits?"
    assert "Hint 1 of 2: Count all the bits" in check("bits_per_weight", lambda *given: 0).message
    (course / "exercises.py").write_text("a student's own notes")
    assert not check("token_cache", 1).passed
    with pytest.raises(labkit.ArgumentError, match="does not run: SyntaxError"):
        check("bits_per_weight", 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("EXERCISES = 1", "EXERCISES must be a tuple"),
        ("x = 1", "has no EXERCISES"),
        ("import nothing_of_that_name", "does not run: ModuleNotFoundError"),
        (FILE.replace('"bits_per_weight"', '"token_cache"'), "already has an exercise 'token_cache'"),
        (FILE.replace('"bits_per_weight"', '"another"'), "unknown exercise 'bits_per_weight'"),
        (f"{FILE}\nEXERCISES *= 2", "two exercises"),
        (FILE.replace("((34, 32), 8.5), ((1024, 512), 16.0)", "(34, 32), 8.5"), "examples must be .* pairs"),
        (re.sub("examples=.*", "", FILE), "it needs examples"),
        (FILE.replace('"bits_per_weight"', '"bits per weight"'), "its name must be a Python identifier"),
    ],
)
def test_faulty_file_is_refused_in_one_line(course: Path, text: str, words: str) -> None:
    """The author gets a one-line error that names what is wrong with the file."""
    (course / "exercises.py").write_text(text, encoding="utf-8")
    with pytest.raises(labkit.GradingError, match=words) as caught:
        read_source(course / "own.ipynb")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("coding", ["latin-1", "utf-8-sig", "utf-8"])
def test_file_is_read_as_python_reads_it(course: Path, coding: str, tmp_path: Path) -> None:
    """A coding line, a byte order mark and Windows line ends do not change the copy's text."""
    line = "" if coding.startswith("utf") else f"# -*- coding: {coding} -*-\r\n"
    text = line + '"""Übung."""\r\n' + FILE.replace("\n", "\r\n")
    (course / "exercises.py").write_bytes(text.encode(coding))
    release_course(course, tmp_path / "students")
    released = (tmp_path / "students" / "exercises.py").read_bytes()
    assert b"\r" not in released
    assert compile(released, "exercises.py", "exec").co_consts[0] == "Übung."


def test_release_has_the_file(course: Path, tmp_path: Path) -> None:
    """Students get the exercises that their checks need, and a stub instead of the solution."""
    (course / "llamacpp_inference.py").write_text("# the instructor's own attempt at chapter 09")
    release_course(course, tmp_path / "students")
    assert not (tmp_path / "students" / "llamacpp_inference.py").exists()
    assert (tmp_path / "students" / "exercises.py").read_bytes() == (course / "exercises.py").read_bytes()
    manifest = json.loads((tmp_path / "students" / ".manifest.json").read_text())
    assert [item["file"] for item in manifest["files"]] == ["AGENTS.md", "exercises.py"]
    cells = json.loads((tmp_path / "students" / "own.ipynb").read_text())["cells"]
    assert "8 * n_bytes" not in "".join(map(str, cells))
    code = CHECK.replace("check(", "print(check(", 1).rstrip() + ")"
    stub = "".join(cells[0]["source"])
    done = subprocess.run(
        [sys.executable, "-c", f"{stub}\n{code}"], cwd=tmp_path / "students", capture_output=True, text=True
    )
    assert "not yet. No answer: replace the placeholder" in done.stdout, done.stderr


@pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "sandbox works")
def test_grading_knows_the_exercise(course: Path, tmp_path: Path) -> None:
    """The check finds the file in the sandbox, too; answers are scored outside; a changed file regrades the class."""
    _write(tmp_path / "submissions" / "alice" / "own.ipynb", ANSWER)
    _write(tmp_path / "submissions" / "bob" / "own.ipynb", WRONG)
    (tmp_path / "submissions" / "bob" / "exercises.py").write_text("raise SystemExit", encoding="utf-8")
    result = grade_course(course, tmp_path / "submissions", tmp_path / "grades", limits=LIMITS)
    assert [grade.points for grade in result.grades] == [2, 0]
    assert "Correct on 2 examples" in result.grades[0].exercises[0].check
    assert "A byte has how many bits?" in result.grades[1].exercises[0].check
    (course / "exercises.py").write_text(FILE.replace("points=2", "points=2,\n        relative=1e-3"), encoding="utf-8")
    assert grade_course(course, tmp_path / "submissions", tmp_path / "grades", limits=LIMITS).graded == 2
