"""The conformance suite: labkit and the solution pass; each mutant fails the function it breaks, and no other."""

from __future__ import annotations

import json
import linecache
import runpy
import subprocess
import sys
import types
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labkit
from labkit.cli import main
from labkit.conformance import FUNCTIONS, check_file, check_module, lay_out_lab, write_skeleton
from labkit.course.own_module import save_functions
from tests.conformance_files.mutants import MUTANTS

SOLUTION = Path(__file__).parent / "conformance_files" / "solution.py"


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    with labkit.load_model(n_ctx=1024) as loaded:
        yield loaded


def _module(source: str, path: Path) -> Any:
    path.write_text(source, encoding="utf-8")
    return types.SimpleNamespace(**runpy.run_path(str(path)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_labkit_and_the_solution_are_fine(name: str, model: labkit.Model, tmp_path: Path) -> None:
    """Both labkit's function and the solution's pass."""
    solution = _module(SOLUTION.read_text(encoding="utf-8"), tmp_path / "solution.py")
    for module in (labkit, solution):
        (report,) = check_module(module, [name], model=model)
        assert (report.status, report.hint) == ("fine", "")


def test_numbers_of_other_kinds_are_numbers(model: labkit.Model) -> None:
    """NumPy's scalars, arrays of one number and decimals pass as numbers; text does not."""

    def info(number: Any) -> Any:
        found = {**labkit.get_model_info(labkit.bundled_model_path())}
        found |= {key: number(value) for key, value in found.items() if isinstance(value, int)}
        return types.SimpleNamespace(
            get_model_info=lambda path: found, count_tokens=lambda model, text: number(counted(text))
        )

    def counted(text: str) -> int:
        return labkit.count_tokens(model, text)

    for number in (np.uint32, np.int64, np.longdouble, lambda value: np.array([value]), Decimal):
        assert check_module(info(number), ["get_model_info"], model=model)[0].hint == ""
    assert check_module(info(np.int32), ["count_tokens"], model=model)[0].hint == ""
    assert "should be a number, not str" in check_module(info(str), ["get_model_info"], model=model)[0].hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xef\xbb\xbfx = 1\r\n", ""),
        (b"# -*- coding: latin-1 -*-\nx = '\xe9'\n", ""),
        (b"x = '\xe9'\n", "not UTF-8"),
        (b"# coding: nothing\n", "unknown encoding"),
        (b"x\0", "null byte"),
        (b"\nx = (", "line 2"),
    ],
)
def test_files_are_read_as_python_reads_them(content: bytes, words: str, tmp_path: Path) -> None:
    """A byte order mark, a coding line and Windows line ends are fine; other bytes are a one-line error."""
    file = tmp_path / "own.py"
    file.write_bytes(content)
    if not words:
        assert check_file(file, []).functions == ()
        return
    with pytest.raises(labkit.ArgumentError, match=words) as error:
        check_file(file, [])
    assert "\n" not in str(error.value)


def test_there_are_enough_mutants() -> None:
    """There are at least 25, for all seven functions, and each changes the solution."""
    assert len(MUTANTS) >= 25
    assert {broken for broken, _, _ in MUTANTS.values()} == set(FUNCTIONS)
    source = SOLUTION.read_text(encoding="utf-8")
    for name, (_, old, new) in MUTANTS.items():
        assert source.count(old) >= 1, name
        assert old != new


@pytest.mark.thorough
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_fails_what_it_breaks(name: str, model: labkit.Model, tmp_path: Path) -> None:
    """A wrong function is reported as wrong, with a one-line hint."""
    broken, old, new = MUTANTS[name]
    module = _module(SOLUTION.read_text(encoding="utf-8").replace(old, new, 1), tmp_path / "mutant.py")
    (report,) = check_module(module, [broken], model=model)
    assert report.status == "wrong"
    assert report.hint
    assert "\n" not in report.hint


@pytest.mark.thorough
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_fails_nothing_else(name: str, model: labkit.Model, tmp_path: Path) -> None:
    """The other functions stay fine; benchmark_inference shares no code with them and is left out."""
    broken, old, new = MUTANTS[name]
    module = _module(SOLUTION.read_text(encoding="utf-8").replace(old, new, 1), tmp_path / "mutant.py")
    others = [other for other in FUNCTIONS if other not in (broken, "benchmark_inference")]
    assert {report.name: report.status for report in check_module(module, others, model=model)} == dict.fromkeys(
        others, "fine"
    )


def test_skeleton_is_empty_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`labkit check --skeleton` writes the file once; each of its functions is missing."""
    file = tmp_path / "llamacpp_inference.py"
    assert main(["check", str(file), "--skeleton"]) == 0
    assert main(["check", str(file), "--skeleton"]) == 1
    assert "already exists" in capsys.readouterr().err
    module = _module(file.read_text(encoding="utf-8"), file)
    assert [report.status for report in check_module(module)] == ["missing"] * 7
    assert main(["check", str(file), "--only", "count_tokens", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["functions"] == [{"name": "count_tokens", "status": "missing", "hint": "nothing is written there yet"}]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os._exit(3)", "exit status 3"),
        ("import ctypes; ctypes.string_at(0)", "ended the Python process"),
        ("while True: pass", "longer than"),
        ('print(\'{"status": "fine", "hint": ""}\'); return 1', "the count is wrong"),
        ("import sys; sys.exit(0)", "ended the Python process"),
        ("raise ValueError('a\\nb')", "ValueError: a b"),
    ],
)
def test_a_function_cannot_break_the_check(body: str, words: str, tmp_path: Path) -> None:
    """A function that exits, crashes, hangs or prints gets a one-line hint."""
    file = tmp_path / "mine.py"
    file.write_text(f"def count_tokens(model, text):\n    {body}\n", encoding="utf-8")
    (row,) = check_file(file, ["count_tokens"], limit_s=12).functions
    assert row.status == "wrong"
    assert words in row.hint


def test_a_wrong_file_is_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the line of a syntax error, a missing file, or the seven functions for an unknown one."""
    file = tmp_path / "mine.py"
    file.write_text("x = 1\ndef (", encoding="utf-8")
    with pytest.raises(labkit.ArgumentError, match="line 2"):
        check_file(file)
    assert main(["check", str(tmp_path / "nothing.py")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    with pytest.raises(labkit.ArgumentError, match="count_tokens"):
        check_file(SOLUTION, ["count"])
    file.write_text("raise RuntimeError('at import')", encoding="utf-8")
    assert "RuntimeError" in check_file(file, ["count_tokens"]).functions[0].hint


def test_the_plug_in_tests_any_module(tmp_path: Path) -> None:
    """With the plug-in, pytest passes labkit's function and fails the skeleton's with the hint."""
    skeleton = write_skeleton(tmp_path / "mine.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "labkit.conformance.plugin", "-p", "no:cacheprovider", "--pyargs"]
    command += ["labkit.conformance", "-k", "count_tokens", "-o", "addopts=", "-W", "default", "--implementation"]
    passed = subprocess.run([*command, "labkit"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert "1 passed" in passed.stdout, passed.stdout + passed.stderr
    failed = subprocess.run([*command, str(skeleton)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert "nothing is written there yet" in failed.stdout


def test_the_lab_is_laid_out_and_pytest_checks_it(tmp_path: Path) -> None:
    """The folder has src/ with the skeleton and tests/ that fail with its hints; a second time nothing is written."""
    assert [file.name for file in lay_out_lab(tmp_path)] == ["llamacpp_inference.py", "test_llamacpp_inference.py"]
    assert lay_out_lab(tmp_path) == ()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", "count_tokens"]
    failed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert "count_tokens: missing: nothing is written there yet" in failed.stdout
    (tmp_path / "src" / "llamacpp_inference.py").write_bytes(SOLUTION.read_bytes())
    passed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert "1 passed" in passed.stdout, passed.stdout


def test_cells_become_one_file(tmp_path: Path) -> None:
    """Functions are saved with their cells, imports once and first; a file that is not from there is kept."""
    cells = [f"import math\n\n\ndef f{number}():\n    return math.pi * {number}\n" for number in (1, 2)]
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        linecache.cache[f"<cell {number}>"] = (len(cell), None, cell.splitlines(keepends=True), f"<cell {number}>")
        exec(compile(cell, f"<cell {number}>", "exec"), names)  # noqa: S102  # as a notebook does
    for _ in range(2):
        path = save_functions(tmp_path / "own.py", [names["f1"], names["f2"]])
    assert path.read_text(encoding="utf-8").count("import math") == 1
    assert runpy.run_path(str(path))["f2"]() == 2 * names["f1"]()
    (tmp_path / "other.py").write_text("mine = 1\n", encoding="utf-8")
    with pytest.raises(labkit.ArgumentError, match="may have your work"):
        save_functions(tmp_path / "other.py", [names["f1"]])
    with pytest.raises(labkit.ArgumentError, match="source of len is unknown"):
        save_functions(tmp_path / "new.py", [len])
