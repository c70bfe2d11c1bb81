"""check_file: check a student's file, each function in its own subprocess, so that a crash fails only that function."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit import ArgumentError, Record
from labkit.children import ChildEndedError, ask_child
from labkit.conformance.suite import FunctionReport, chosen_functions
from labkit.output_files import writing
from labkit.tables import Table

_CHILD = Path(__file__).with_name("child.py")
_SKELETON = Path(__file__).with_name("skeleton.txt")
_TESTS = Path(__file__).with_name("test_lab.txt")
_MARKS = {"fine": "✔", "wrong": "✘", "missing": "…"}


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ConformanceReport(Record):
    """The result of `check_file`.

    Attributes
    ----------
    file : str
        The file's name.
    functions : tuple of FunctionReport
        One per function.
    """

    file: str
    functions: tuple[FunctionReport, ...]

    @property
    def passed(self) -> bool:
        """Whether all functions are fine."""
        return all(row.status == "fine" for row in self.functions)

    def to_text(self) -> str:
        """Return a summary line and one line per function."""
        rows = [f"{_MARKS[row.status]} {row.name:22} {row.status:8} {row.hint}".rstrip() for row in self.functions]
        n_fine = sum(row.status == "fine" for row in self.functions)
        return "\n".join([f"{self.file}: {n_fine} of {len(self.functions)} functions are fine", *rows])

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        rows = [(row.name, f"{_MARKS[row.status]} {row.status}", row.hint) for row in self.functions]
        return Table(self.to_text().splitlines()[0], (), rows).to_html()


def check_file(
    path: Path | str,
    only: Sequence[str] | None = None,
    *,
    limit_s: float = 60.0,
    progress: Callable[[int, int], object] | None = None,
) -> ConformanceReport:
    """Check the seven functions of a file on the bundled model.

    Parameters
    ----------
    path : Path or str
        A Python file, such as ``llamacpp_inference.py``.
    only : sequence of str, optional
        The functions to check; all seven by default.
    limit_s : float
        Time limit per function, seconds; a slower one is wrong.
    progress : callable, optional
        Called with the number of functions checked and the total.

    Returns
    -------
    ConformanceReport

    Raises
    ------
    ArgumentError
        If the file does not exist or is not Python, or a name is not one of the seven.
    """
    file = Path(path).expanduser()
    names = chosen_functions(only)
    _refuse_unless_python(file)
    found = []
    for name in names:
        found.append(_ask(file, name, limit_s))
        if progress is not None:
            progress(len(found), len(names))
    return ConformanceReport(file.name, tuple(found))


def _refuse_unless_python(file: Path) -> None:
    try:
        ast.parse(file.read_bytes(), file.name)  # bytes, so that a byte order mark and a coding line count
    except OSError as error:
        raise ArgumentError(f"{file} cannot be read: {error.strerror or error}") from error
    except SyntaxError as error:
        if "codec can't decode" in str(error.msg):
            raise ArgumentError(f"{file.name} is not a Python file: it is not UTF-8 text") from error
        place = f", line {error.lineno}" if error.lineno else " is not a Python file"  # no line: not UTF-8, null bytes
        raise ArgumentError(f"{file.name}{place}: {error.msg}") from error
    except ValueError as error:  # a null byte
        raise ArgumentError(f"{file.name} is not a Python file: {error}") from error


def _ask(file: Path, name: str, limit_s: float) -> FunctionReport:
    try:
        answer = ask_child(_CHILD, {"file": str(file.resolve()), "name": name}, limit_s)
        return FunctionReport(name, answer["status"], answer["hint"])
    except subprocess.TimeoutExpired:
        return FunctionReport(name, "wrong", f"it took longer than {limit_s:.0f} s: does it end?")
    except (ChildEndedError, KeyError, TypeError) as error:
        reason = f" ({error})" if isinstance(error, ChildEndedError) else ""
        return FunctionReport(name, "wrong", f"it ended the Python process{reason}")


def write_skeleton(path: Path | str) -> Path:
    """Write the file that a student starts with: the seven functions, each to be filled in.

    Raises
    ------
    ArgumentError
        If the file already exists or cannot be written.
    """
    file = Path(path).expanduser()
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(_SKELETON.read_text(encoding="utf-8"))
    except FileExistsError:
        raise ArgumentError(f"{file} already exists and may contain your work: use another name") from None
    except OSError as error:
        raise ArgumentError(f"{file} cannot be written: {error.strerror or error}") from error
    return file


def lay_out_lab(folder: Path | str) -> tuple[Path, ...]:
    """Write ``src/llamacpp_inference.py``, to be filled in, and ``tests/``, which check it; return the files written.

    Files that exist are kept. ``uv run pytest tests/`` in the folder runs the suite.
    """
    place = Path(folder).expanduser()
    files = {place / "src" / "llamacpp_inference.py": _SKELETON, place / "tests" / "test_llamacpp_inference.py": _TESTS}
    missing = [file for file in files if not file.exists()]
    with writing(place):
        for file in missing:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(files[file].read_text(encoding="utf-8"), encoding="utf-8")
    return tuple(missing)
