"""Grading around the sandbox: cases of lost students, rosters, students who leave, full and read-only disks."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import labkit
from labkit.cli import main
from labkit.grading.gradebook import read_grade
from tests.grading import LIMITS, NAME, STUB, handed_in, why_no_sandbox, write, write_source
from tests.test_grade import _grade
from tests.test_roster import canvas_import, moodle_import

needs_sandbox = pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "sandbox works")
GOOD = json.dumps(handed_in())
HALF = json.dumps(handed_in(softmax_at=STUB.format(name="softmax_at")))


def _download(folder: Path, files: dict[str, str]) -> None:
    """Write a learning system's download."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "download.zip", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


def _points(folder: Path) -> dict[str, str]:
    """Return the totals in grades.csv, by name."""
    with (folder / "grades" / "grades.csv").open(newline="", encoding="utf-8") as stream:
        return {row["Student"]: row["Total"] for row in csv.DictReader(stream)}


def _command(folder: Path, *more: str) -> int:
    write_source(folder / "source")
    places = [str(folder / "submissions"), "--source", str(folder / "source"), "--out", str(folder / "grades")]
    return main(["grade", *places, "--cell-limit", "20", "--total-limit", "120", "--seed", "3", *more])


@needs_sandbox
def test_canvas_goes_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Canvas's download is graded, and its gradebook export filled so that Canvas imports it."""
    _download(tmp_path / "submissions", {"doejane_12_900_hw.ipynb": GOOD, "roejohn_LATE_13_901_homework-1.ipynb": HALF})
    roster = tmp_path / "2026-01-01_Grades-LLM.csv"
    rows = [f"Student,ID,SIS User ID,SIS Login ID,Section,{NAME} (77)", "    Points Possible,,,,,4.00"]
    rows += ['"Doe, Jane",12,u1,jdoe,S,', '"Roe, John",13,u2,jroe,S,', '"Li, Ana",14,u3,ali,S,']
    roster.write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert _command(tmp_path, "--roster", str(roster), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["roster"]["without_submission"] == ["Li, Ana"]
    filled = Path(printed["roster"]["file"]).read_text(encoding="utf-8")
    assert canvas_import(filled, {12: "", 13: "", 14: ""}, {77: ""}) == {(12, 77): "4", (13, 77): "2", (14, 77): ""}
    assert "Li, Ana: in the roster, without a submission" in (tmp_path / "grades" / "report.html").read_text(
        encoding="utf-8"
    )


@needs_sandbox
def test_moodle_goes_round(tmp_path: Path) -> None:
    """Moodle's download is graded, and its grade export filled so that Moodle imports it."""
    names = {"Jane Doe": GOOD, "John Roe": HALF}
    files = {f"{name}_{50 + i}_assignsubmission_file_/{NAME}.ipynb": text for i, (name, text) in enumerate(names.items())}
    _download(tmp_path / "submissions", {**files, "Ana Li_60_assignsubmission_onlinetext_/onlinetext.html": "<p>text</p>"})
    rows = [f"First name,Last name,ID number,Email address,Assignment: {NAME} (Real)"]
    rows += ["Jane,Doe,1,jane@example.edu,-", "John,Roe,2,john@example.edu,-", "Ana,Li,3,ana@example.edu,-"]
    (tmp_path / "export.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert _command(tmp_path, "--roster", str(tmp_path / "export.csv"), "--match-names") == 0
    filled = (tmp_path / "grades" / "import-export.csv").read_text(encoding="utf-8")
    emails = {f"{name}@example.edu": number for number, name in enumerate(("jane", "john", "ana"))}
    assert moodle_import(filled, emails, {f"Assignment: {NAME} (Real)": 5}, 100) == {(0, 5): 4, (1, 5): 2}
    assert _points(tmp_path) == {"Jane Doe": "4", "John Roe": "2", "Ana Li": "0"}
    assert ",onlinetext.html" in (tmp_path / "grades" / "grades.csv").read_text(encoding="utf-8")


@needs_sandbox
def test_students_who_leave_and_return(tmp_path: Path) -> None:
    """Without a submission a student leaves the books, reported; the grade is kept aside and used if the student returns."""
    for name in ("alice", "bob"):
        write(tmp_path / "submissions", name, handed_in())
    _grade(tmp_path)
    (tmp_path / "submissions" / "bob").rename(tmp_path / "bob")
    result = _grade(tmp_path)
    assert [grade.student for grade in result.grades] == ["alice"]
    assert any(problem.startswith("bob: no submission any more") for problem in result.problems)
    assert set(_points(tmp_path)) == {"alice"}
    assert not (tmp_path / "grades" / "feedback" / "bob.html").exists()
    assert (tmp_path / "grades" / "gone" / "bob" / f"{NAME}.json").is_file()
    (tmp_path / "bob").rename(tmp_path / "submissions" / "bob")
    result = _grade(tmp_path)
    assert (result.graded, result.kept, result.problems) == (0, 2, ())
    assert (tmp_path / "grades" / "feedback" / "bob.html").is_file()


@needs_sandbox
def test_kept_grades_know_what_decided_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of labkit or of the exercises grades again and says why; a damaged or old grade is graded again."""
    write(tmp_path / "submissions", "alice", handed_in())
    _grade(tmp_path)
    for name, value in (("__version__", "99"), ("_exercises_version", lambda: "0" * 64)):
        monkeypatch.setattr(f"labkit.grading.tasks.{name}", value)
        result = _grade(tmp_path)
        assert (result.graded, len(result.problems)) == (1, 1)
        assert "1 kept grade out of date, graded again: changed: " in result.problems[0]
    grade = read_grade(tmp_path / "grades", "alice", NAME)
    assert grade is not None
    assert (grade.decided_by["labkit"], grade.decided_by["limits"]["cell_s"]) == ("99", LIMITS.cell_s)
    path = tmp_path / "grades" / "grades" / "alice" / f"{NAME}.json"
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 1'))
    assert _grade(tmp_path).graded == 1


@needs_sandbox
def test_wrong_adjustments_stop_before_grading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of adjustments.csv for no one is one line on stderr, and nothing is graded."""
    write(tmp_path / "submissions", "alice", handed_in())
    (tmp_path / "grades").mkdir()
    (tmp_path / "grades" / "adjustments.csv").write_text(f"student,notebook,factor\nbob,{NAME},0.5\n")
    assert _command(tmp_path) == 1
    assert "adjustments.csv, line 2: no student 'bob'" in capsys.readouterr().err
    assert not (tmp_path / "grades" / "grades").exists()


UNWRITABLE = ("file", "file/below", "/proc/labkit", "~no-one-of-this-name/x")


@pytest.mark.parametrize("place", UNWRITABLE)
@pytest.mark.parametrize("command", ["grade", "release", "lab"])
def test_unwritable_places_are_one_line(
    tmp_path: Path, place: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be written is one line on stderr, and what was there stays."""
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path / "source")
    write(tmp_path / "submissions", "alice", handed_in())
    (tmp_path / "file").write_text("mine")
    arguments = {
        "grade": ["submissions", "--source", "source", "--unsafe-no-sandbox", "--out"],
        "release": ["source", "--out"],
        "lab": ["source", "--work"],
    }[command]
    assert main([command, *arguments, place]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "no sandbox" not in line]
    assert len(errors) == 1
    assert "cannot be" in errors[0]
    assert (tmp_path / "file").read_text() == "mine"


CODE = """
import resource, sys
from labkit.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""
FULL = ("-B", "-c", CODE)  # with bytecode, CPython would leave truncated files of it behind, which no later import survives


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("most", ["10", "1000", "1500"])
def test_full_disk_leaves_nothing_half_written(tmp_path: Path, most: str) -> None:
    """If the disk is full while a release is written, one line says so, nothing is left, and the next call works."""
    write_source(tmp_path / "source")
    command = ["release", str(tmp_path / "source"), "--out", str(tmp_path / "out")]
    result = subprocess.run([sys.executable, *FULL, most, *command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "cannot be written" in result.stderr
    assert "free disk space" in result.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert main(command) == 0
    assert (tmp_path / "out" / "AGENTS.md").is_file()


@needs_sandbox
@pytest.mark.parametrize("most", ["20", "4500", "9000", "20000"])
def test_full_disk_while_grading(tmp_path: Path, most: str) -> None:
    """If the disk is full while grading, one line says so; the next call completes the grades."""
    write_source(tmp_path / "source")
    for name in ("alice", "bob"):
        write(tmp_path / "submissions", name, handed_in())
    places = [str(tmp_path / "submissions"), "--source", str(tmp_path / "source"), "--out", str(tmp_path / "grades")]
    command = ["grade", *places, "--cell-limit", "20", "--total-limit", "120", "--unsafe-no-sandbox"]
    result = subprocess.run([sys.executable, *FULL, most, *command], capture_output=True, text=True, check=False)
    lines = [line for line in result.stderr.splitlines() if "labkit: " in line and "warning" not in line]
    assert (result.returncode, len(lines)) == (1, 1), result.stderr
    assert "cannot be written" in lines[0]
    assert "Traceback" not in result.stderr
    assert main(command) == 0
    assert set(_points(tmp_path).values()) == {"4"}
    assert not [path for path in (tmp_path / "grades").rglob(".*") if path.is_file()]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`labkit lab --work=~/mine` works in the home folder, although no shell expands it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr("labkit.cli.lab._serve", lambda *_: 0)
    write_source(tmp_path / "source")
    assert main(["lab", str(tmp_path / "source"), "--work=~/mine", "--no-browser"]) == 0
    assert (tmp_path / "mine" / f"{NAME}.ipynb").is_file()


@pytest.mark.parametrize("zone", ["Mars/Olympus", "+25:00", "../../etc/passwd", ""])
def test_unknown_time_zones_are_refused(tmp_path: Path, zone: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A time zone that does not exist is one line."""
    assert _command(tmp_path, "--timezone", zone, "--unsafe-no-sandbox") == 1
    assert "no time zone is named" in capsys.readouterr().err


def test_unreadable_seed_is_one_line(tmp_path: Path) -> None:
    """A damaged grading.json is an error that says what to do."""
    write(tmp_path / "submissions", "alice", handed_in())
    (tmp_path / "grades").mkdir()
    (tmp_path / "grades" / "grading.json").write_text("{")
    with pytest.raises(labkit.ArgumentError, match=r"grading\.json cannot be read .*: write \{\"seed\": N\} into it"):
        _grade(tmp_path, unsafe_no_sandbox=True)
