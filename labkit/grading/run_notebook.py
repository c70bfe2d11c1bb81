"""Run a rebuilt notebook in a kernel of its own and ask it for values; no verdict is made here."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.course.exercise import Inputs
from labkit.course.source import SourceCell
from labkit.grading.sandbox.kernel import CellResult, Kernel
from labkit.grading.sandbox.limits import Limits
from labkit.grading.sandbox.probe import MISSING, STUB, probe_code

__all__ = ["OWN_WORDS", "Answer", "Job", "Run", "run_notebook"]

_ENDED = {
    "timeout": "it took too long and was stopped",
    "output": "it printed too much and was stopped",
    "memory": "it took too much memory and was stopped",
    "processes": "it started too many processes or threads and was stopped",
    "died": "it ended the kernel",
}
_NOT_RUN = "there was no time left to run it"
_NOTHING = "it gave nothing"
OWN_WORDS = frozenset({*_ENDED.values(), _NOT_RUN, _NOTHING, MISSING, STUB})


@dataclasses.dataclass(frozen=True)
class Job:
    """A notebook to run, with all that this takes: it can be sent to another process or machine.

    Parameters
    ----------
    cells : tuple of SourceCell
    inputs : mapping of str to list of inputs
        What each exercise is tried on; None for a value.
    limits : Limits
    files : mapping of str to str
        Texts that stand in the working directory, by name.
    hidden : tuple of Path
        Folders that must not be seen inside.
    unsafe : bool
        Without a sandbox.
    """

    cells: tuple[SourceCell, ...]
    inputs: Mapping[str, list[Inputs] | None]
    limits: Limits
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hidden: tuple[Path, ...] = ()
    unsafe: bool = False


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an answer gave for one of the inputs.

    Parameters
    ----------
    value : object
        Of JSON's types; None where there is an error.
    error : str
        Why there is no value.
    """

    value: Any = None
    error: str = ""


@dataclasses.dataclass
class Run:
    """What came of running a notebook.

    Parameters
    ----------
    answers : dict of str to list of Answer
        By exercise, one for each of the inputs.
    cells : dict of str to CellResult
        By cell id.
    seconds : float
    """

    answers: dict[str, list[Answer]]
    cells: dict[str, CellResult]
    seconds: float = 0.0

    def words(self, cell_id: str) -> str:
        """Say in words what went wrong in a cell; nothing where it went well."""
        result = self.cells.get(cell_id)
        if result is None:
            return _NOT_RUN
        return _ENDED.get(result.status, result.message if result.status == "error" else "")


def run_notebook(job: Job) -> Run:
    """Run cells in order, then ask for each exercise's values.

    A cell or an answer that ends its kernel is left out, and the others are run again in a new one, while there is time.

    Raises
    ------
    GradingError
        When no kernel starts.
    """
    inputs, limits = job.inputs, job.limits
    begun = time.monotonic()
    run, left_out = Run({}, {}), set[str]()
    while set(inputs) - set(run.answers) and time.monotonic() < begun + limits.total_s:
        with Kernel(limits, files=job.files, hidden=job.hidden, unsafe=job.unsafe) as kernel:
            until = begun + limits.total_s
            if _run_cells(kernel, job.cells, run, left_out, until):
                _ask_all(kernel, inputs, run, until)
    for name, given in inputs.items():
        run.answers.setdefault(name, [Answer(error=_NOT_RUN)] * (1 if given is None else len(given)))
    run.seconds = time.monotonic() - begun
    return run


def _run_cells(kernel: Kernel, cells: Sequence[SourceCell], run: Run, left_out: set[str], until: float) -> bool:
    """Run the cells but those left out; False when one ended the kernel, which is left out from then on."""
    for cell in cells:
        if cell.cell_id in left_out or not cell.source.strip():
            continue
        result = kernel.execute(cell.source, _time_for(kernel, until))
        run.cells.setdefault(cell.cell_id, result)
        if not kernel.alive:
            run.cells[cell.cell_id] = result
            left_out.add(cell.cell_id)
            return False
    return True


def _ask_all(kernel: Kernel, inputs: Mapping[str, list[Inputs] | None], run: Run, until: float) -> None:
    for name, given in inputs.items():
        if name not in run.answers and kernel.alive:
            result = kernel.execute(probe_code(name, given, kernel.limits.value_bytes), _time_for(kernel, until))
            run.answers[name] = _answers(result, 1 if given is None else len(given), kernel.limits.value_bytes)


def _time_for(kernel: Kernel, until: float) -> float:
    return max(0.0, min(kernel.limits.cell_s, until - time.monotonic()))


def _answers(result: CellResult, count: int, limit_bytes: int) -> list[Answer]:
    """Read what a probe sent: as many answers as were asked for, whatever was sent."""
    reason = _ENDED.get(result.status) or result.message or _NOTHING
    answers = [Answer(error=reason)] * count
    for text in result.answers[: 4 * count]:
        index, answer = _answer(text, limit_bytes)
        if 0 <= index < count:
            answers[index] = answer
    return answers


def _answer(text: str, limit_bytes: int) -> tuple[int, Answer]:
    """Return an answer with its number, -1 for what is none."""
    try:
        sent = json.loads(text) if len(text) <= 2 * limit_bytes + 1000 else {}
        index = sent["index"] if type(sent["index"]) is int else -1
        if "error" in sent:
            return index, Answer(error=str(sent["error"])[:500])
        value = json.loads(sent["value"][:limit_bytes])
    except (ValueError, KeyError, TypeError, RecursionError):
        return -1, Answer()
    return index, Answer(value)
