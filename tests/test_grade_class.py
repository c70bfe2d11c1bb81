"""A class of 100, 10 hostile, 20 in other shapes: the grades are the same after 20 kills or if a cluster loses a worker."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import labkit
from labkit.cli import main
from labkit.grading.dask_cluster import FailFastExecutor, cluster
from labkit.grading.grade import ClassGrades, grade_course
from labkit.grading.sandbox.limits import processes_below
from tests.grading import NAME, SHORT, SOLUTIONS, STUB, handed_in, why_no_sandbox, write, write_source
from tests.test_grade import EDGE, HALF, MISTAKEN, _assert_gone, _tree
from tests.test_grade_shapes import SHAPES

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "sandbox works"),
    pytest.mark.timeout(900),
]

N_STUDENTS = 100
N_KILLS = 20
N_SHAPED = 20
SHAPED = tuple(shape for shape in SHAPES if shape.__name__ not in ("_keep", "_stub_copy", "_bound_again"))  # keep the points
SEED = 5
HONEST = (({}, 4), ({"count_min_p": EDGE}, 3.5), ({"count_min_p": MISTAKEN}, 2), ({"softmax_at": HALF}, None))
HOSTILE = (
    "while True: pass",
    "import os\nos._exit(0)",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(1, signal.SIGKILL)",
    "while True: print('a' * 1000)",
    "held = []\nwhile True: held.append(bytearray(50 << 20))",
    "import os\nwhile True: os.fork()",
    "import time\ntry:\n    time.sleep(100)\nexcept BaseException:\n    time.sleep(100)",
    "class Same:\n    __eq__ = lambda *_: True\n    __hash__ = None\nsoftmax_at = lambda *_: Same()",
    "import labkit.course.checks as checks\n"
    "checks.judge = lambda one, _: (True, f'Correct on {len(one.examples)} examples; grading uses others, too.')\n"
    "softmax_at = lambda *_: [1.0]",
    "raise SystemExit('<script>alert(1)</script>\x1b[2J')",
)


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the class's notebooks, and its grades from one call."""
    folder = tmp_path_factory.mktemp("school")
    write_source(folder / "source")
    for number in range(N_STUDENTS - len(HOSTILE)):
        answers = HONEST[number % len(HONEST)][0]
        notebook = handed_in(answers)
        if number < N_SHAPED:
            shape = SHAPED[number % len(SHAPED)]
            shape(notebook, answers.get("count_min_p", SOLUTIONS["count_min_p"]))
        write(folder / "submissions", f"s{number:02}", notebook)
    for number, answer in enumerate(HOSTILE):
        write(folder / "submissions", f"eve{number}", handed_in(softmax_at=answer))
    _grade(folder, folder)
    return folder


def _n_graded(folder: Path) -> int:
    return len(list((folder / "grades").glob("grades/*/*.json")))


def _grade(school: Path, folder: Path) -> None:
    grade_course(school / "source", school / "submissions", folder / "grades", seed=SEED, limits=SHORT, jobs=2)


def test_hostile_notebooks_do_not_affect_others(school: Path) -> None:
    """Ten hostile notebooks do not change the grades of 90 honest ones, and get no points for the hostile answer."""
    points = {path.parent.name: json.loads(path.read_text()) for path in (school / "grades" / "grades").glob("*/*.json")}
    assert len(points) == N_STUDENTS
    for number in range(N_STUDENTS - len(HOSTILE)):
        expected, got = HONEST[number % len(HONEST)][1], points[f"s{number:02}"]["points"]
        assert got == expected or (expected is None and 2 <= got < 4), number
    for number in range(len(HOSTILE)):
        assert points[f"eve{number}"]["exercises"][0]["points"] == 0, HOSTILE[number]
        assert points[f"eve{number}"]["exercises"][1]["points"] == 2, HOSTILE[number]


def test_forged_check_is_reported(school: Path) -> None:
    """A check that passes although the values for the same inputs are wrong is reported to the instructor."""
    forger = next(number for number, answer in enumerate(HOSTILE) if "checks.judge" in answer)
    grade = json.loads((school / "grades" / "grades" / f"eve{forger}" / f"{NAME}.json").read_text())
    words = r"The check of softmax_at printed that the answer is correct; (\d+) of \1 values"
    assert re.search(words, " ".join(grade["problems"]))
    assert re.search(words, (school / "grades" / "grading.log").read_text())


def test_twenty_kills_do_not_change_the_grades(school: Path, tmp_path: Path) -> None:
    """A grader killed at random points leaves no process, and the following calls complete identical grades."""
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom tests.test_grade_class import _grade\nfrom pathlib import Path\n"
    )
    code += "_grade(Path(sys.argv[2]), Path(sys.argv[3]))"
    command = [sys.executable, "-c", code, str(Path(__file__).parent.parent), str(school), str(tmp_path)]
    draw = random.Random(7)
    killed = 0
    for _ in range(N_KILLS):
        until = _n_graded(tmp_path) + draw.randint(0, 4)  # at most four per kill, plus those of up to half a second
        child = subprocess.Popen(command)
        while _n_graded(tmp_path) < until and child.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.5))
        inside = list(processes_below(child.pid))
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        _assert_gone(inside)
    assert killed == N_KILLS, "the class was graded before the last kill: the kills came too late"
    _grade(school, tmp_path)
    assert _tree(tmp_path) == _tree(school)


class Dask(NamedTuple):
    """A scheduler and its workers."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


@pytest.fixture
def two_workers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Dask]:
    """Start a dask scheduler and two workers on loopback; the parameter is how often a notebook may lose its worker."""
    programs = [
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    ]
    file = tmp_path / "scheduler.json"
    programs[0] += ["--scheduler-file", str(file)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
    worker += ["--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path / "dask")]
    settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(getattr(request, "param", 3))}
    running = [
        subprocess.Popen(program, stderr=subprocess.DEVNULL, env={**os.environ, **settings})
        for program in (*programs, worker, worker)
    ]
    until = time.monotonic() + 60
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.1)
    yield Dask(json.loads(file.read_text())["address"], running[0], running[1:])
    for program in reversed(running):
        program.kill()
        program.wait()


def _grade_and_kill(dask: Dask, school: Path, folder: Path, victim: subprocess.Popen[bytes], n_graded: int) -> ClassGrades:
    """Grade with both workers, and kill a process of the cluster after ``n_graded`` grades."""
    until = time.monotonic() + 60
    with cluster(dask.address) as (executor, n_parallel):
        assert isinstance(executor, FailFastExecutor)
        while n_parallel < 2 and time.monotonic() < until:
            n_parallel = sum(executor.client.nthreads().values())
            time.sleep(0.1)
        assert n_parallel == 2

        def kill() -> None:
            while _n_graded(folder) < n_graded:
                time.sleep(0.02)
            victim.kill()

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        out = folder / "grades"
        try:
            return grade_course(
                school / "source", school / "submissions", out, seed=SEED, limits=SHORT, jobs=n_parallel, executor=executor
            )
        finally:
            killer.join(60)
            assert victim.wait(60) == -signal.SIGKILL


def test_cluster_that_loses_a_worker_gives_the_same_grades(school: Path, tmp_path: Path, two_workers: Dask) -> None:
    """If one of two workers is killed midway, the other takes over, and the grades equal those of one machine."""
    result = _grade_and_kill(two_workers, school, tmp_path, two_workers.workers[0], N_STUDENTS // 2)
    assert result.problems == ()
    assert result.graded == N_STUDENTS
    assert _tree(tmp_path) == _tree(school)


@pytest.fixture
def small_class(tmp_path: Path) -> Path:
    """Return a folder with a notebook and sixteen honest submissions."""
    folder = tmp_path / "small"
    write_source(folder / "source")
    for number in range(16):
        write(folder / "submissions", f"s{number:02}", handed_in())
    return folder


@pytest.mark.parametrize("two_workers", [0], indirect=True)
def test_next_call_grades_what_the_cluster_gave_up(small_class: Path, tmp_path: Path, two_workers: Dask) -> None:
    """A notebook that lost its worker too often is reported without a grade; the next call grades it."""
    result = _grade_and_kill(two_workers, small_class, tmp_path, two_workers.workers[0], 2)
    assert result.graded + len(result.problems) == 16
    assert result.graded == _n_graded(tmp_path) >= 14
    for problem in result.problems:
        assert problem.endswith("not graded: the workers running it were lost (KilledWorker); run the command again")
    _grade(small_class, tmp_path)
    _grade(small_class, small_class)
    assert _tree(tmp_path) == _tree(small_class)


def test_lost_scheduler_is_a_one_line_error(small_class: Path, tmp_path: Path, two_workers: Dask) -> None:
    """If the scheduler is lost, the call ends with an error and keeps its grades; the next call completes them."""
    with pytest.raises(labkit.GradingError, match=r"^the scheduler at \S+ is gone: start it and run the command again"):
        _grade_and_kill(two_workers, small_class, tmp_path, two_workers.scheduler, 2)
    assert 2 <= _n_graded(tmp_path) < 16
    _grade(small_class, tmp_path)
    _grade(small_class, small_class)
    assert _tree(tmp_path) == _tree(small_class)


def test_command_grades_on_a_cluster(
    tmp_path: Path,
    two_workers: Dask,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--scheduler names the cluster; an address without a scheduler is a one-line error."""
    write_source(tmp_path / "source")
    write(tmp_path / "submissions", "alice", handed_in())
    write(tmp_path / "submissions", "bob", handed_in(softmax_at=STUB.format(name="softmax_at")))
    arguments = [
        "grade",
        str(tmp_path / "submissions"),
        "--source",
        str(tmp_path / "source"),
        "--out",
        str(tmp_path / "grades"),
    ]
    assert main([*arguments, "--scheduler", two_workers.address, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["points"] for row in printed["grades"]] == ["4", "2"]
    monkeypatch.setattr("labkit.grading.dask_cluster._CONNECT_S", 2)
    with (
        pytest.raises(labkit.GradingError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"),
        cluster("tcp://127.0.0.1:9"),
    ):
        pass
