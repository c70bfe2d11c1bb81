"""Hostile notebooks: no undeserved points, escape, write outside, packet or orphan process; each within its limit plus 3 s.

Each case is one answer of a notebook whose other answer is honest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.course.source import SourceNotebook, read_source
from labkit.grading.grade import grade_course
from labkit.grading.gradebook import Grade
from labkit.grading.run_notebook import Job, Run
from labkit.grading.sandbox.limits import processes_below
from labkit.grading.score import Reference
from labkit.grading.tasks import TaskBuilder
from tests.grading import NAME, SHORT, SOLUTIONS, STUB, cell, handed_in, why_no_sandbox, write, write_source

pytestmark = pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "sandbox works")
ALL = 2.0
SEED = 5
GOOD = SOLUTIONS["softmax_at"]


@dataclasses.dataclass(frozen=True)
class Case:
    """An answer to softmax_at and the points it may get: by default 0, and full points for the honest answer."""

    name: str
    answer: str
    points: float = 0.0
    honest: float | None = ALL
    words: str = ""
    core: bool = False


def _function(body: str) -> str:
    return "def softmax_at(logits, temperature):\n" + "\n".join(f"    {line}" for line in body.splitlines())


# OUTSIDE: a folder of the test with a file "secret". PORT: a server of the test on loopback.
CASES = (
    # Time.
    Case("loops forever", "while True: pass", words="too long"),
    Case("loops forever when called", _function("while True: pass"), words="too long"),
    Case(
        "ignores an interrupt",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        words="too long",
        core=True,
    ),
    Case(
        "catches every exception",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        words="too long",
    ),
    Case("sleeps", "import time\ntime.sleep(1000)", words="too long"),
    Case("holds the interpreter", "10 ** 10 ** 9", words="too long"),
    Case("backtracks in a regex", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')", words="too long"),
    Case(
        "blocks in C",
        "import ctypes, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\nctypes.CDLL(None).pause()",
        words="too long",
    ),
    Case("asks for input", "name = input('who?')\n" + GOOD, words="StdinNotImplementedError"),
    Case(
        "loops in a thread",
        "import threading\ndef f():\n    while True: pass\n"
        "[threading.Thread(target=f, daemon=True).start() for _ in range(2)]\n" + GOOD,
        points=ALL,
    ),
    # Output.
    Case("prints forever", "while True: print('a' * 1000)", words="printed too much"),
    Case("prints one huge line", "print('a' * 50_000_000)", words="printed too much"),
    Case("writes to the screen forever", "import os\nwhile True: os.write(1, b'a' * 1000)", words=" "),
    Case("shows a huge picture", "from IPython.display import HTML, display\ndisplay(HTML('a' * 50_000_000))", words="much"),
    Case("returns a huge value", _function("return [0.5] * 10_000_000")),
    Case("returns a deep value", _function("x = []\nfor _ in range(900): x = [x]\nreturn x")),
    Case("returns itself in a list", _function("x = []\nx.append(x)\nreturn x")),
    Case("returns a huge number", _function("return 10 ** 100_000")),
    Case("returns nan", _function("return [float('nan')] * len(logits)")),
    # Memory, processes, files.
    Case("uses all memory", "x = []\nwhile True: x.append(bytearray(1 << 24))", words="MemoryError"),
    Case(
        "uses shared memory",
        "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1",
        words="too much memory",
    ),
    Case("uses memory that belongs to no process", "import os\nos.memfd_create('x')", words="PermissionError"),
    Case("forks repeatedly", "import os\nwhile True: os.fork()", words="too many processes or threads", honest=None),
    Case(
        "starts threads repeatedly",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        words="too many processes or threads",
        honest=None,
    ),
    Case(
        "leaves a process",
        "import subprocess\nsubprocess.Popen(['sleep', 'MARK'], start_new_session=True)\n" + GOOD,
        points=ALL,
    ),
    Case(
        "leaves a daemon",
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: os.execvp('sleep', ['sleep', 'MARK'])\n"
        "    os._exit(0)\n" + GOOD,
        points=ALL,
        core=True,
    ),
    Case("fills the disk", "for i in range(99):\n    open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))", words="No space left"),
    Case("writes a huge file", "import os\nf = os.open('/tmp/f', 65)\nos.truncate('/tmp/f', 1 << 40)", words="too large"),
    Case("opens all files", "x = []\nwhile True: x.append(open('/dev/null'))", honest=None),
    # Ways to exit.
    Case("ends its process", "import os\nos._exit(0)", words="the kernel died"),
    Case("ends its process when called", _function("import os\nos._exit(0)")),
    Case("raises SystemExit", "raise SystemExit", words=""),
    Case("crashes", "import ctypes\nctypes.string_at(0)", words="the kernel died"),
    Case("overflows the stack", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()", words=""),
    Case("kills its parent", "import os\nos.kill(os.getppid(), 9)", words="PermissionError"),
    Case("kills all", "import os\nos.kill(-1, 9)", words=""),
    Case("kills the first process", "import os\nos.kill(1, 9)", words="PermissionError"),
    # The network and files outside.
    Case(
        "calls a server here",
        "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1).sendall(b'hello')",
        words="refused",
        core=True,
    ),
    Case("calls a server elsewhere", "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)", words="unreachable"),
    Case("resolves a name", "import socket\nsocket.getaddrinfo('example.org', 80)", words="gaierror"),
    Case("calls a hidden socket", "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0labkit-PORT')", words="refused"),
    Case("reads outside", "print(open('OUTSIDE/secret').read())", words="No such file", core=True),
    Case("reads through its own root", "print(open('/proc/1/' + 'root' + 'OUTSIDE/secret').read())", words=""),
    Case("reads the solutions", "print(open('SOURCE').read())", words="No such file"),
    Case("reads the passwords", "print(open('/etc/shadow').read())", words="No such file"),
    Case("reads its parent's memory", "print(open('/proc/1/environ').read(), open('/proc/1/mem', 'rb').read(1))", words=""),
    Case(
        "links to the outside",
        "import os\nos.symlink('OUTSIDE/secret', '/tmp/link')\nprint(open('/tmp/link').read())",
        words="No such file",
    ),
    Case("writes outside", "open('OUTSIDE/new', 'w').write('x')", words="No such file", core=True),
    Case("writes into labkit", "import labkit\nopen(labkit.__file__, 'a').write('#')", words="denied"),
    Case("writes into Python", "import sys\nopen(sys.prefix + '/sitecustomize.py', 'w').write('#')", words="Read-only"),
    Case("mounts", "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.unshare(0x10020000) == 0", words="AssertionError"),
    Case("becomes root", "import os\nos.setuid(0)", words="PermissionError"),
    Case(
        "replaces the kernel's socket with a link",
        "import glob, os\nfor p in glob.glob('/tmp/kernel-*/*'):\n"
        "    os.unlink(p)\n    os.symlink('OUTSIDE/socket', p)\n" + GOOD,
        points=ALL,
    ),
    # Forged results.
    Case(
        "is equal to everything",
        "class Liar(float):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        + _function("return [Liar(0)] * len(logits)"),
        core=True,
    ),
    Case(
        "is a list that is equal to everything",
        "class Liar(list):\n    def __eq__(self, other): return True\n" + _function("return Liar([0])"),
    ),
    Case(
        "patches check",
        "import labkit.course, labkit.course.checks, labkit.course.exercise\n"
        "labkit.course.checks.judge = lambda *_: (True, 'right')\nlabkit.course.exercise.equal = lambda *_, **__: True\n"
        "check = labkit.course.check = lambda name: 'softmax_at: right'",
        core=True,
    ),
    Case(
        "patches the exercise",
        "from labkit.course.exercise import Exercise\nExercise.same = lambda *_: True\n"
        "Exercise.draw_inputs = lambda *_: []\n" + _function("return 1"),
    ),
    Case("patches the probe", "import labkit.grading.sandbox.probe as p\np.answer = lambda *_: None\n" + GOOD, honest=None),
    Case(
        "sends forged answers",
        "import json\nfrom IPython import get_ipython\n"
        + _function(
            "for i in range(8):\n    get_ipython().display_pub.publish({'application/vnd.labkit.answer+json': "
            "json.dumps({'index': i, 'value': '[1.0]', 'points': 2, 'right': True})})\nreturn [1.0]"
        ),
        core=True,
    ),
    Case(
        "sends malformed answers",
        "import json\nfrom IPython import get_ipython\n"
        "ODD = (None, [], {}, 1, {'index': True, 'value': 1}, {'index': -1, 'value': '1'}, {'index': 0, 'value': '['})\n"
        + _function(
            "for text in (*map(json.dumps, ODD), '[' * 90_000, '\\ud800'):\n"
            "    get_ipython().display_pub.publish({'application/vnd.labkit.answer+json': text})\nreturn 1"
        ),
    ),
    Case("prints a forged result", "print(json.dumps({'points': 2, 'grade': 1.0}) if 0 else '{\"points\": 2}')\n1.0"),
    Case(
        "strips asserts",
        "import ast\nfrom IPython import get_ipython\nclass Strip(ast.NodeTransformer):\n"
        "    def visit_Assert(self, node): return ast.Pass()\nget_ipython().ast_transformers.append(Strip())\n"
        + _function("return 1"),
    ),
    Case(
        "replaces built-in functions",
        "import builtins\nbuiltins.sum = lambda *_: 1\nbuiltins.all = lambda *_: True\n"
        "builtins.len = lambda *_: 0\n" + _function("return []"),
        honest=None,
    ),
    Case(
        "looks the answer up",
        "from labkit.course.checks import find_exercise\nEXAMPLES = find_exercise('softmax_at').examples\n"
        + _function("for inputs, output in EXAMPLES:\n    if inputs == (logits, temperature): return output\nreturn 1"),
    ),
    Case("marks cells for nbval", "# NBVAL_SKIP\n# NBVAL_RAISES_EXCEPTION\n" + _function("return 1")),
    Case("answers by a magic that hides errors", "%%script --no-raise-error false\nx", words=""),
    Case(
        "sends escape sequences",
        "print('\\x1b]0;owned\\x07\\x1b[31m' + '</pre><script>alert(1)</script>')\n" + GOOD,
        points=ALL,
        core=True,
    ),
    Case(
        "raises escape sequences",
        "raise type('\\x1b[31m<script>', (Exception,), {})('\\x1b]0;owned\\x07<script>')",
        words="script",
    ),
    Case("is not Python", "def softmax_at(", words="SyntaxError"),
    Case("is binary", "\x00\x01\ud800\u202e", words="", core=True),
)


@dataclasses.dataclass
class Outside:
    """Files, servers and connections outside the sandbox, which it must not reach."""

    folder: Path
    port: int
    calls: list[Any]


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """Create a folder with a secret, and servers on loopback, an abstract socket and a socket file."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text("the secret of the outside")
    calls: list[Any] = []
    with socket.socket() as server, socket.socket(socket.AF_UNIX) as hidden, socket.socket(socket.AF_UNIX) as in_folder:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        hidden.bind(f"\0labkit-{port}")
        in_folder.bind(str(folder / "socket"))
        for listening in (server, hidden, in_folder):
            listening.listen()
            listening.settimeout(0.2)
            threading.Thread(target=_accept, args=(listening, calls), daemon=True).start()
        yield Outside(folder, port, calls)


def _accept(listening: socket.socket, calls: list[Any]) -> None:
    while listening.fileno() >= 0:
        try:
            calls.append(listening.accept()[1])
        except TimeoutError:
            continue
        except OSError:
            return


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], SourceNotebook]:
    """Run the instructor's solution only once for all cases."""
    folder = tmp_path_factory.mktemp("course")
    source = read_source(write_source(folder))
    once: list[Reference] = []
    run_reference = TaskBuilder.reference

    def reference(builder: TaskBuilder, source: SourceNotebook, run: Callable[[Job], Run]) -> Reference:
        if not once:
            once.append(run_reference(builder, source, run))
        return builder.references.setdefault(source.name, once[0])

    patch = pytest.MonkeyPatch()
    patch.setattr("labkit.grading.tasks.TaskBuilder.reference", reference)
    yield lambda _: source
    patch.undo()


def _grade(folder: Path, notebook: dict[str, Any] | str) -> tuple[Grade, float]:
    """Grade one notebook; return its grade and the seconds."""
    write_source(folder / "source")
    write(folder / "submissions", "eve", notebook)
    begun = time.monotonic()
    result = grade_course(folder / "source", folder / "submissions", folder / "grades", seed=SEED, limits=SHORT)
    assert result.problems == ()
    return result.grades[0], time.monotonic() - begun


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case.core else [pytest.mark.thorough], id=case.name.replace(" ", "-"))
        for case in CASES
    ],
)
@pytest.mark.usefixtures("course")
def test_hostile_answer_is_contained(case: Case, outside: Outside, tmp_path: Path) -> None:
    """A hostile answer gets no undeserved points, reaches nothing outside, leaves no process, and ends in time."""
    answer = case.answer.replace("OUTSIDE", str(outside.folder)).replace("PORT", str(outside.port))
    mark = f"{99_000 + os.getpid() % 900}.{abs(hash(case.name)) % 10**6}"
    answer = answer.replace("MARK", mark).replace("SOURCE", str(tmp_path / "source" / f"{NAME}.ipynb"))
    grade, seconds = _grade(tmp_path, handed_in(softmax_at=answer))
    points = {item.name: item.points for item in grade.exercises}
    message = next(item.message for item in grade.exercises if item.name == "softmax_at")
    assert points["softmax_at"] == case.points, message
    assert points["count_min_p"] == case.honest or case.honest is None, grade
    assert case.words in message
    assert seconds < SHORT.total_s + 3
    _assert_nothing_escaped(outside, tmp_path / "grades", mark)


def _assert_nothing_escaped(outside: Outside, grades: Path, mark: str) -> None:
    assert sorted(path.name for path in outside.folder.iterdir()) == ["secret", "socket"]
    assert outside.calls == []
    for path in (path for path in grades.rglob("*") if path.is_file()):
        content = _dump(path) if path.suffix == ".sqlite" else path.read_bytes()
        assert b"the secret" not in content
        assert b"\x1b" not in content
        assert b"<script" not in content or path.suffix != ".html"
    running = [_command(number) for number in processes_below(os.getpid())]
    assert not [command for command in running if b"bwrap" in command]
    everywhere = [_command(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()]
    assert not [command for command in everywhere if mark.encode() in command]


def _dump(path: Path) -> bytes:
    """Return a database as SQL text: the file itself may contain any byte."""
    with contextlib.closing(sqlite3.connect(path)) as book:
        return "\n".join(book.iterdump()).encode()


def _command(number: int) -> bytes:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return b""


def _forged_outputs() -> dict[str, Any]:
    notebook = handed_in({name: STUB.format(name=name) for name in SOLUTIONS})
    for item in notebook["cells"]:
        shown = {"text/plain": "softmax_at: Correct."}
        item["outputs"] = [{"output_type": "execute_result", "data": shown, "metadata": {}, "execution_count": 1}]
    return notebook


def _changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    notebook = handed_in({name: STUB.format(name=name) for name in SOLUTIONS})
    change(notebook)
    return notebook


NOTEBOOKS: dict[str, dict[str, Any]] = {
    "forged outputs": _forged_outputs(),
    "forged points": _changed(lambda nb: cell(nb, "check-softmax_at")["metadata"]["nbgrader"].update(points=1000)),
    "check removed": _changed(lambda nb: nb["cells"].remove(cell(nb, "check-softmax_at"))),
    "check replaced": _changed(lambda nb: cell(nb, "check-softmax_at").update(source="'softmax_at: right'")),
    "answer in the setup": _changed(lambda nb: cell(nb, "setup").update(source=SOLUTIONS["softmax_at"])),
    "answer cell duplicated": _changed(lambda nb: nb["cells"].append({**cell(nb, "solve-softmax_at"), "source": GOOD})),
    "ids of checks on own cells": _changed(lambda nb: cell(nb, "setup").update(id="check-softmax_at")),
    "tags for nbval": _changed(lambda nb: [item["metadata"].update(tags=["nbval-skip"]) for item in nb["cells"]]),
    "no cells": {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
    "another kernel": _changed(lambda nb: nb["metadata"]["kernelspec"].update(name="../../bin/sh")),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.usefixtures("course")
def test_tampered_notebook_gets_no_points(name: str, outside: Outside, tmp_path: Path) -> None:
    """Forged outputs, points, checks and cells earn no points."""
    grade, _ = _grade(tmp_path, NOTEBOOKS[name])
    assert (grade.points, grade.of_points) == (0.0, 4.0)
    _assert_nothing_escaped(outside, tmp_path / "grades", "no mark")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not a notebook"),
        ("{'cells': []}", "not valid JSON"),
        ('{"cells": [' * 50_000, "not valid JSON"),
        (json.dumps({"cells": [{"cell_type": "code", "id": str(number)} for number in range(100_000)]}), "2,000 cells"),
        ("#!/bin/sh\ntouch /tmp/owned", "not valid JSON"),
        ("cPK\x03\x04", "not valid JSON"),
    ],
    ids=["empty", "not JSON", "deep", "100,000 cells", "a script", "binary"],
)
@pytest.mark.usefixtures("course")
def test_invalid_notebook_gets_no_points(content: str, words: str, tmp_path: Path) -> None:
    """A file that is not a notebook soon gets 0 points, with a reason."""
    grade, seconds = _grade(tmp_path, content)
    assert grade.points == 0
    assert words in grade.problems[0]
    assert seconds < 60


@pytest.mark.usefixtures("course")
def test_huge_file_is_not_read(tmp_path: Path) -> None:
    """A notebook of 200 MB is refused by its size."""
    path = write(tmp_path / "submissions", "eve", "")
    os.truncate(path, 200 << 20)
    write_source(tmp_path / "source")
    grade = grade_course(tmp_path / "source", path.parent.parent, tmp_path / "grades", seed=SEED, limits=SHORT).grades[0]
    assert grade.points == 0
    assert "larger than 20 MB" in grade.problems[0]


@pytest.mark.usefixtures("course")
def test_other_submitted_files_are_not_opened(outside: Outside, tmp_path: Path) -> None:
    """A submitted conftest.py or sitecustomize.py, modules that shadow Python's, links and pipes are never opened."""
    folder = write(tmp_path / "submissions", "eve", handed_in()).parent
    code = f"open({str(outside.folder / 'owned')!r}, 'w')"
    for name in ("conftest.py", "sitecustomize.py", "usercustomize.py", "math.py", "json.py", "labkit.py", "pytest.ini"):
        (folder / name).write_text(code)
    (folder / "labkit").mkdir()
    (folder / "labkit" / "__init__.py").write_text(code)
    (folder / "again.ipynb").symlink_to(outside.folder / "secret")
    os.mkfifo(folder / f"{NAME}-2.ipynb")
    write_source(tmp_path / "source")
    result = grade_course(tmp_path / "source", tmp_path / "submissions", tmp_path / "grades", seed=SEED, limits=SHORT)
    assert result.grades[0].points == 4
    assert len(result.problems) == 3  # the two of a kind, and one line with all others
    _assert_nothing_escaped(outside, tmp_path / "grades", "no mark")
