"""labkit grade: points for correct answers, reasons for what is not graded, identical grades after an interruption."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import labkit
import labkit.course
from labkit.cli import main
from labkit.course.source import SourceNotebook, read_source
from labkit.grading.grade import ClassGrades, grade_course
from labkit.grading.gradebook import Grade
from labkit.grading.rebuild import Rebuilt, rebuild
from labkit.grading.sandbox.kernel import Kernel
from labkit.grading.sandbox.limits import processes_below
from labkit.grading.sandbox.start import BOOT, end_leftovers
from labkit.grading.score import ExerciseGrade
from labkit.grading.submissions import find_submissions
from tests import broken_engine as broken
from tests.grading import LIMITS, NAME, STUB, cell, handed_in, source_notebook, why_no_sandbox, write, write_source

needs_sandbox = pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "sandbox works")
HALF = "def softmax_at(logits, temperature):\n    if len(logits) % 2:\n        return 0\n" + "\n".join(
    [
        "    weights = [math.exp((x - max(logits)) / temperature) for x in logits]",
        "    return [w / sum(weights) for w in weights]",
    ]
)
EDGE = "def count_min_p(shares, min_p):\n    return sum(share > min_p * max(shares) for share in shares)"
MISTAKEN = "def count_min_p(shares, min_p):\n    return sum(share >= min_p for share in shares)"


@pytest.fixture
def source(tmp_path: Path) -> SourceNotebook:
    return read_source(write_source(tmp_path / "source"))


def _grade(folder: Path, **options: Any) -> ClassGrades:
    write_source(folder / "source")
    options = {"seed": 3, "limits": LIMITS, **options}
    return grade_course(folder / "source", folder / "submissions", folder / "grades", **options)


def _of(result: ClassGrades, student: str) -> Grade:
    return next(grade for grade in result.grades if grade.student == student)


def _exercise(grade: Grade, name: str) -> ExerciseGrade:
    return next(item for item in grade.exercises if item.name == name)


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grade a class with two jobs."""
    folder = tmp_path_factory.mktemp("class")
    write(folder / "submissions", "alice", handed_in())
    write(folder / "submissions", "bob", handed_in({name: STUB.format(name=name) for name in ("softmax_at", "count_min_p")}))
    write(folder / "submissions", "carol", handed_in(softmax_at=HALF, count_min_p=MISTAKEN))
    write(folder / "submissions", "dave", handed_in(softmax_at="def softmax_at(:"))
    write(
        folder / "submissions",
        "=1+1<script>alert(1)<",
        handed_in(softmax_at="x = '</pre><script>alert(2)</script>\x1b[31m'"),
    )
    (folder / "submissions" / "notes.ipynb").write_text("{}")
    if why_no_sandbox():
        pytest.skip(why_no_sandbox())
    result = _grade(folder, jobs=2)
    assert result.graded == 5
    assert len(result.problems) == 1
    assert result.problems[0].startswith("notes.ipynb: skipped: neither the folder nor the file name identifies the student")
    return folder


def _read(folder: Path, student: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "grades" / "grades" / student / f"{NAME}.json").read_text())
    return found


def _tree(folder: Path) -> dict[str, bytes]:
    """Return the content of the grades, feedback and CSV, which must be reproducible."""
    grades = {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "grades" / "grades").rglob("*.json"))
    }
    pages = sorted((folder / "grades" / "feedback").glob("*.html"))
    return {
        **grades,
        **{path.name: path.read_bytes() for path in pages},
        "csv": (folder / "grades" / "grades.csv").read_bytes(),
    }


def test_points_follow_the_fraction_of_correct_results(class_folder: Path) -> None:
    """A solution gets all points, a stub none, a partly correct answer some, rounded down to half points."""
    points = {name: _read(class_folder, name)["points"] for name in ("alice", "bob", "carol", "dave")}
    assert points["alice"] == 4
    assert points["bob"] == 0
    assert points["dave"] == 2
    half, edge = _read(class_folder, "carol")["exercises"]
    assert 0 < half["right"] < half["inputs"] == 4 + 8
    assert 0 < half["points"] < 2
    assert edge["points"] == 0


@needs_sandbox
def test_edge_cases_count(tmp_path: Path) -> None:
    """An answer that is correct on all drawn inputs but wrong on an example's edge case does not get all points."""
    write(tmp_path / "submissions", "alice", handed_in(count_min_p=EDGE))
    item = _exercise(_of(_grade(tmp_path), "alice"), "count_min_p")
    assert item.right == item.inputs - 1
    assert item.points == 1.5


def test_books_agree(class_folder: Path) -> None:
    """JSON, SQLite and CSV give each student the same points."""
    with (class_folder / "grades" / "grades.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    book = sqlite3.connect(class_folder / "grades" / "gradebook.sqlite")
    in_book = dict(book.execute("SELECT student, points FROM grades"))
    by_exercise = dict(book.execute("SELECT student, SUM(points) FROM exercises GROUP BY student"))
    book.close()
    assert len(rows) == len(in_book) == 5
    for row in rows:
        student = row["ID"].removeprefix("'")
        assert float(row[f"{NAME} (4)"]) == float(row["Total"]) == in_book[student] == by_exercise[student]
        assert _read(class_folder, student)["points"] == in_book[student]
        assert _read(class_folder, student)["schema_version"] == 2


def test_grades_follow_their_schema(class_folder: Path) -> None:
    """Each JSON file is valid under docs/grade.schema.json and has exactly its properties."""
    schema = json.loads((Path(__file__).parent.parent / "docs" / "grade.schema.json").read_text(encoding="utf-8"))
    paths = sorted((class_folder / "grades" / "grades").glob("*/*.json"))
    assert len(paths) == 5
    for path in paths:
        grade = json.loads(path.read_text())
        jsonschema.validate(grade, schema)
        assert grade.keys() == schema["properties"].keys()
        assert grade["exercises"][0].keys() == schema["properties"]["exercises"]["items"]["properties"].keys()


def test_log_records_every_notebook(class_folder: Path) -> None:
    """The log has a line per notebook with points and problems; untrusted names cannot add lines."""
    lines = (class_folder / "grades" / "grading.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d [\d:,]+ (INFO|WARNING) ", line) for line in lines)
    text = "\n".join(lines)
    for words in ("5 notebooks to grade, 0 already graded", "alice, hw: 4 of 4 points", "notes.ipynb: skipped"):
        assert words in text


def test_untrusted_text_is_escaped(class_folder: Path) -> None:
    """Markup, formulas and escape sequences in names and answers have no effect in the pages and the CSV file."""
    pages = [path.read_text() for path in (class_folder / "grades").rglob("*.html")]
    assert len(pages) == 6
    for page in pages:
        assert "<script" not in page
        assert "\x1b" not in page
        assert "default-src 'none'" in page
    assert any("&lt;script&gt;" in page for page in pages)
    assert "\n'=1+1<script>" in (class_folder / "grades" / "grades.csv").read_text()


def test_feedback_hides_the_inputs(class_folder: Path) -> None:
    """A feedback page has the answer and the check's output, but none of the inputs and values used for grading."""
    page = (class_folder / "grades" / "feedback" / "carol.html").read_text()
    assert "The limit is not itself a probability" in page
    assert "sum(share &gt;= min_p for share in shares)" in page
    exercises = read_source(class_folder / "source" / f"{NAME}.ipynb").exercises
    for exercise in exercises.values():
        for inputs in exercise.draw_inputs(3):
            assert str(inputs[0]) not in page
            assert str(inputs[0][0]) not in page


def test_report_has_the_most_common_wrong_results(class_folder: Path) -> None:
    """The class report has the score distribution, each exercise's difficulty and the grading time."""
    page = (class_folder / "grades" / "report.html").read_text()
    assert "5 students, 5 notebooks" in page
    assert "1 × <code>not answered</code>" in page
    assert "60 %" in page
    assert "s per notebook (median)" in page


def test_second_run_grades_nothing_again(class_folder: Path) -> None:
    """Grades are kept while file, notebook and seed are unchanged; a different seed needs --regrade."""
    before = _tree(class_folder)
    assert (_grade(class_folder).graded, _grade(class_folder, seed=None).seed) == (0, 3)
    assert _tree(class_folder) == before
    with pytest.raises(labkit.ArgumentError, match="--regrade"):
        _grade(class_folder, seed=4)


def test_regrading_is_reproducible_and_applies_adjustments(class_folder: Path) -> None:
    """Regrading gives the same bytes; adjustments.csv changes the points in the CSV and feedback, not in the JSON."""
    before = _tree(class_folder)
    table = class_folder / "grades" / "adjustments.csv"
    empty = table.read_text()
    assert empty == "student,notebook,factor,points,reason\n"
    table.write_text(f"{empty}alice,{NAME},0.5,1,two <days> late\n")
    assert _grade(class_folder, regrade=True, only=["alice"]).graded == 1
    assert _read(class_folder, "alice")["points"] == 4
    assert "alice,alice,3,3" in (class_folder / "grades" / "grades.csv").read_text()
    assert "two &lt;days&gt; late" in (class_folder / "grades" / "feedback" / "alice.html").read_text()
    table.write_text(f"{empty}alice,{NAME},half,,\n")
    with pytest.raises(labkit.GradingError, match="line 2"):
        _grade(class_folder)
    table.write_text(empty)
    _grade(class_folder)
    assert _tree(class_folder) == before


def _assert_gone(numbers: list[int]) -> None:
    """Wait for processes to be gone; zombies count as gone."""
    until = time.monotonic() + 30
    while running := [number for number in numbers if _is_running(number)]:
        assert time.monotonic() < until, running
        time.sleep(0.05)


def _is_running(number: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False


@needs_sandbox
@pytest.mark.thorough
def test_grader_killed_at_any_point_leaves_no_process(tmp_path: Path) -> None:
    """A sandbox dies with its grader, from its first millisecond on; what waits for bubblewrap is ended by the next one."""
    code = (
        "from labkit.grading.sandbox.kernel import Kernel\nfrom labkit.grading.sandbox.limits import Limits\nimport time\n"
    )
    code += "print(flush=True)\nwith Kernel(Limits()):\n    time.sleep(60)"
    for wait_s in (0.005 * step for step in range(40)):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        with child.stdout:
            child.stdout.readline()
        time.sleep(wait_s)
        inside = list(processes_below(child.pid))[1:]
        child.kill()
        child.wait()
        until = time.monotonic() + 2
        while any(map(_is_running, inside)) and time.monotonic() < until:
            time.sleep(0.01)
        end_leftovers()
        _assert_gone(inside)


@needs_sandbox
def test_next_grader_ends_what_a_killed_one_left() -> None:
    """An inner process of bubblewrap that waits for an outer one that is gone is ended; a sandbox that works is not."""
    waits, hold = os.pipe()
    options = ["--ro-bind", "/", "/", "--unshare-pid", "--block-fd", str(waits)]
    outer = subprocess.Popen([str(shutil.which("bwrap")), *options, "--", sys.executable, str(BOOT)], pass_fds=[waits])
    until = time.monotonic() + 30
    while len(inside := list(processes_below(outer.pid))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    end_leftovers()
    assert all(map(_is_running, inside))
    outer.kill()
    outer.wait()
    end_leftovers()
    _assert_gone(inside)
    os.close(waits)
    os.close(hold)


@needs_sandbox
def test_engine_is_not_tried_again_in_every_sandbox() -> None:
    """What the grader knows about llama.cpp holds in the sandbox: no notebook computes something in a subprocess first."""
    code = "from labkit.system import engine_library as e\ne._try = lambda: 'tried again'\nprint(e.check_engine())"
    with Kernel(LIMITS) as kernel:
        result = kernel.execute(code, 30)
    assert (result.status, result.message) == ("ok", "")
    assert "lib" in result.output


@needs_sandbox
def test_sandbox_has_the_engine_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLAMA_CPP_LIB_PATH holds in the sandbox, which sees the libraries and nothing else of that folder."""
    folder = broken.copy_libraries(tmp_path / "my libraries")  # links, and one file
    (folder / "libllama.so").unlink()
    shutil.copy(broken.LIBRARIES / "libllama.so", folder)
    (folder / "solutions.txt").write_text("42")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "my libraries")
    code = (
        "import os\nfrom labkit.system import engine_library as e\ne._try = lambda: 'tried again'\n"
        "e.load_engine()\nprint(e.check_engine())\nprint(*os.listdir(e.check_engine()))\n"
        "print(f'{e.check_engine()}/libllama.so\\n' in open('/proc/self/maps').read())"
    )
    with Kernel(LIMITS) as kernel:
        result = kernel.execute(code, 30)
    assert (result.status, result.message) == ("ok", "")
    found, names, loaded = result.output.splitlines()
    assert found == str(folder)
    assert {"libllama.so"} <= set(names.split()) <= {file.name for file in broken.LIBRARIES.iterdir()}
    assert loaded == "True"


@needs_sandbox
def test_killed_run_is_completed_to_the_same_grades(class_folder: Path, tmp_path: Path) -> None:
    """A grader killed midway leaves no process and no partial file; the next call completes identical grades."""
    (tmp_path / "submissions").symlink_to(class_folder / "submissions")
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom tests.test_grade import _grade\nfrom pathlib import Path\n"
        "_grade(Path(sys.argv[2]), jobs=1)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent.parent), str(tmp_path)]
    child = subprocess.Popen(command)
    until = time.monotonic() + 60
    while time.monotonic() < until and len(list((tmp_path / "grades").rglob("grades/*/*.json"))) < 2:
        time.sleep(0.02)
    inside = list(processes_below(child.pid))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    _assert_gone(inside)
    assert 1 < len(list((tmp_path / "grades").rglob("grades/*/*.json"))) < 5
    assert _grade(tmp_path).kept >= 2
    assert _tree(tmp_path) == _tree(class_folder)


@needs_sandbox
def test_command_prints_grades(class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints all grades as JSON; an unknown student in --only is an error; other limits need new grades."""
    shutil.copytree(class_folder, tmp_path, dirs_exist_ok=True)
    arguments = ["grade", str(tmp_path / "submissions"), "--source", str(tmp_path / "source")]
    for graded, kept in ((5, 0), (0, 5)):
        assert main([*arguments, "--out", str(tmp_path / "grades"), "--json"]) == 0
        out, errors = capsys.readouterr()
        printed = json.loads(out)
        assert (printed["graded"], printed["kept"], printed["seed"]) == (graded, kept, 3)
        assert {"student": "alice", "notebook": NAME, "points": "4", "of_points": "4"} in printed["grades"]
        assert ("5 kept grades out of date, graded again: changed: limits" in errors) == bool(graded)
    assert main([*arguments, "--out", str(tmp_path / "grades"), "--only", "eve"]) == 1


def test_no_sandbox_no_grading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a working sandbox, grading stops with one line that names the package to install and the override."""
    from labkit.grading.sandbox import start as sandbox

    sandbox.require_sandbox.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(labkit.GradingError, match=r"apt install bubblewrap.*--unsafe-no-sandbox"):
        _grade(tmp_path)
    assert not (tmp_path / "grades").exists()
    sandbox.require_sandbox.cache_clear()


def test_grading_on_windows_names_what_it_needs(tmp_path: Path) -> None:
    """On Windows the command ends in one line: it imports no missing module, and the error names bubblewrap or WSL."""
    write_source(tmp_path / "source")
    write(tmp_path / "submissions", "alice", handed_in())
    code = (
        "import os, sys\nsys.modules['resource'] = None\nfrom labkit.cli import main\nimport labkit.grading.grade\n"
        "sys.platform = 'win32'\nos.environ['PATH'] = ''\nsys.exit(main(sys.argv[1:]))"
    )
    for further, words in ((), "bubblewrap"), (("--unsafe-no-sandbox",), "WSL"):
        arguments = ["grade", "submissions", "--source", "source", "--out", "grades", *further]
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert words in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.thorough
def test_unsafe_no_sandbox_grades(tmp_path: Path) -> None:
    """With unsafe_no_sandbox, a partly correct answer gets partial points."""
    write(tmp_path / "submissions", "alice", handed_in(softmax_at=HALF))
    result = _grade(tmp_path, unsafe_no_sandbox=True)
    assert 2 < _of(result, "alice").points < 4


@needs_sandbox
@pytest.mark.thorough
def test_any_executor_gives_the_same_grades(class_folder: Path, tmp_path: Path) -> None:
    """An executor of processes, like those of a cluster, gives the same grades as threads."""
    (tmp_path / "submissions").symlink_to(class_folder / "submissions")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        _grade(tmp_path, jobs=2, executor=executor)
    assert _tree(tmp_path) == _tree(class_folder)


@needs_sandbox
@pytest.mark.thorough
def test_interrupt_ends_grading_within_seconds(tmp_path: Path) -> None:
    """Ctrl-C kills running kernels and exits with 130."""
    write_source(tmp_path / "source")
    write(tmp_path / "submissions", "eve", handed_in(softmax_at="import time\ntime.sleep(100)"))
    command = [sys.executable, "-m", "labkit", "grade", "submissions", "--source", "source", "--out", "grades", "-j", "2"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(6)
    inside = list(processes_below(child.pid))
    child.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert child.wait(30) == 130
    assert time.monotonic() < begun + 5
    assert len(inside) > 2
    _assert_gone(inside)


@needs_sandbox
@pytest.mark.thorough
def test_grader_stays_small(tmp_path: Path) -> None:
    """Whatever notebooks print, send or contain, the grader's peak RSS stays under 300 MB."""
    write_source(tmp_path / "source")
    floods = (
        "while True: print('a' * 1000)",
        "from IPython.display import HTML, display\nfor _ in range(100): display(HTML('a' * 1_900_000))",
        "raise ValueError('x' * 1_900_000)",
    )
    for number, flood in enumerate(floods):
        write(tmp_path / "submissions", f"eve{number}", handed_in(softmax_at=flood))
    write(tmp_path / "submissions", "parts", "[" + "[]," * 190_000 + "1]")
    write(tmp_path / "submissions", "large", " " * (20 << 20))
    # not getrusage's ru_maxrss: a child inherits it from its parent, here pytest
    code = "import sys, labkit.system.ram as ram\nfrom labkit.cli import main\nmain(sys.argv[1:])\n"
    code += "print(ram.peak_resident_bytes())"
    command = [sys.executable, "-c", code, "grade", "submissions", "--source", "source", "--out", "grades", "-j", "2"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(result.stdout.splitlines()[-1]) < 300 << 20
    assert len(list((tmp_path / "grades" / "feedback").glob("*.html"))) == 5


VALUES = {
    "softmax_at": labkit.course.Exercise("softmax_at", 2, "a measured number.", accepts=lambda value: 1 < value < 3),
    "count_min_p": labkit.course.Exercise("count_min_p", 2, "half of one.", examples=(((), 0.5),)),
}


@needs_sandbox
@pytest.mark.parametrize(
    ("answers", "points"),
    [
        ({"softmax_at": "softmax_at = 2", "count_min_p": "import numpy as np\ncount_min_p = np.float64(0.5)"}, 4),
        ({"softmax_at": "softmax_at = 4", "count_min_p": "count_min_p = '0.5'"}, 0),
        ({"softmax_at": "softmax_at = ...", "count_min_p": "count_min_p = lambda: 0.5"}, 0),
    ],
)
def test_values_are_graded_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], points: float
) -> None:
    """A value is scored in the grader's process, by the exercise's ``accepts`` or against the solution's value."""
    monkeypatch.setattr("labkit.course.source.known_exercises", lambda _: VALUES)
    write(tmp_path, "source", handed_in(softmax_at="softmax_at = 1.5", count_min_p="count_min_p = 1 / 2"))
    write(tmp_path / "submissions", "alice", handed_in(answers))
    result = grade_course(tmp_path / "source", tmp_path / "submissions", tmp_path / "grades", limits=LIMITS)
    assert result.grades[0].points == points


@needs_sandbox
def test_wrong_solution_stops_grading(tmp_path: Path) -> None:
    """If the instructor's solution fails, grading stops with a one-line error."""
    write(tmp_path / "submissions", "alice", handed_in())
    notebook = handed_in(softmax_at="def softmax_at(*_):\n    return 1 / 0")
    write(tmp_path, "source", notebook)
    with pytest.raises(labkit.GradingError, match="softmax_at fails: ZeroDivisionError"):
        grade_course(tmp_path / "source", tmp_path / "submissions", tmp_path / "grades", limits=LIMITS)


def _rebuilt(source: SourceNotebook, notebook: dict[str, Any]) -> Rebuilt:
    return rebuild(source, json.dumps(notebook).encode())


def test_rebuilding_uses_only_the_answers(source: SourceNotebook) -> None:
    """The rebuilt notebook has the instructor's cells with the student's answers."""
    notebook = handed_in(softmax_at="answer = 1")
    cell(notebook, "setup")["source"] = "evil = 1"
    cell(notebook, "check-softmax_at")["source"] = "print('softmax_at: right')"
    notebook["cells"].append({**cell(notebook, "setup"), "id": "more"})
    rebuilt = _rebuilt(source, notebook)
    own = [item["source"] for item in source_notebook()["cells"]]
    course = [item.source for item in rebuilt.cells if "sandbox.probe" not in item.source]
    assert course == [own[0], "answer = 1", *own[2:]]
    assert rebuilt.problems == ("The check cell of softmax_at was changed: the instructor's was run.",)


def test_rebuilding_reports_problems(source: SourceNotebook) -> None:
    """Missing, duplicate, renamed and converted cells, other kernels and nbval markers are reported; the rest is graded."""
    notebook = handed_in(count_min_p="# NBVAL_SKIP\ncount_min_p = 1  # nbval-raises-exception")
    cell(notebook, "solve-softmax_at")["id"] = "renamed"
    notebook["cells"].insert(3, {**cell(notebook, "solve-count_min_p"), "source": "first = 1  # nbval_skip"})
    notebook["metadata"]["kernelspec"]["name"] = "ir"
    rebuilt = _rebuilt(source, notebook)
    assert rebuilt.answers["count_min_p"] == "first = 1  \n\n\ncount_min_p = 1  "
    assert "math.exp" in rebuilt.answers["softmax_at"]
    words = " ".join(rebuilt.problems)
    for part in ("nbval markers", "the kernel 'ir'"):
        assert part in words
    notebook["cells"] = [{**item, "cell_type": "markdown"} for item in notebook["cells"] if item["id"] != "renamed"]
    words = " ".join(_rebuilt(source, notebook).problems)
    assert "softmax_at is missing" in words
    assert "count_min_p is not a code cell" in words


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a notebook"),
        (b"[]", "list of cells"),
        (b'{"cells": 1}', "list of cells"),
        (b'{"cells": [', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"cells": [' + b'{"cell_type": "code"},' * 100_000 + b"{}]}", "more than 2,000 cells"),
        (b"[" + b"1," * 500_000 + b"1]", "too many parts"),
        (b" " * (21 << 20), "20 MB"),
    ],
)
def test_invalid_notebook_gets_a_reason(source: SourceNotebook, content: bytes, words: str) -> None:
    """Broken, deeply nested and huge files raise an error with a plain reason."""
    with pytest.raises(labkit.GradingError, match=words):
        rebuild(source, content)


@pytest.mark.parametrize(
    "notebook",
    [{"cells": [None, 1, {"id": [1], "source": {"a": 1}, "metadata": 3}]}, {"cells": [], "metadata": {"kernelspec": 1}}],
)
def test_malformed_cells_are_not_answers(source: SourceNotebook, notebook: dict[str, Any]) -> None:
    """Malformed cells are read without an error and count as not answered."""
    assert _rebuilt(source, notebook).answers == {"softmax_at": "", "count_min_p": ""}


def test_class_without_submissions_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A class without a notebook gets a report, and a line that names the expected file."""
    write_source(tmp_path / "source")
    (tmp_path / "submissions" / "alice").mkdir(parents=True)
    folders = [str(tmp_path / "submissions"), "--source", str(tmp_path / "source"), "--out", str(tmp_path / "grades")]
    assert main(["grade", *folders]) == 0
    assert f"no notebook to grade; a student's folder needs one named {NAME}" in capsys.readouterr().err
    assert "0 students, 0 notebooks" in (tmp_path / "grades" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_invalid_limits_are_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit that is not positive and finite is a one-line error before anything runs."""
    assert main(["grade", "missing", "--source", "missing", "--out", "missing", "--cell-limit", value]) == 1
    assert f"cell_s={float(value)} is out of range" in capsys.readouterr().err


def test_missing_folders_are_errors(tmp_path: Path) -> None:
    """A missing folder, notebooks without exercises and jobs=0 raise ArgumentError."""
    write_source(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    with pytest.raises(labkit.ArgumentError, match="nothing not found"):
        find_submissions(tmp_path / "nothing", {NAME})
    with pytest.raises(labkit.ArgumentError, match="no notebook with exercises"):
        grade_course(tmp_path / "empty", tmp_path, tmp_path / "out", unsafe_no_sandbox=True)
    with pytest.raises(labkit.ArgumentError, match="at least 1"):
        grade_course(tmp_path / "source", tmp_path, tmp_path / "out", jobs=0)
