"""Run a rebuilt notebook in a separate kernel and request the answers' values; scoring happens elsewhere."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.course.exercise import Inputs
from labkit.course.source import SourceCell
from labkit.grading.sandbox.kernel import CellResult, Kernel
from labkit.grading.sandbox.limits import Limits
from labkit.grading.sandbox.probe import BYTES, MISSING, STUB, probe_code

_STOPPED = {
    "timeout": "it took too long and was stopped",
    "output": "it printed too much and was stopped",
    "memory": "it used too much memory and was stopped",
    "processes": "it started too many processes or threads and was stopped",
    "died": "the kernel died",
}
_NOT_RUN = "the time limit was reached before it ran"
_NO_VALUE = "it sent no value"
OWN_MESSAGES = frozenset({*_STOPPED.values(), _NOT_RUN, _NO_VALUE, MISSING, STUB})


@dataclasses.dataclass(frozen=True)
class Job:
    """A notebook to run, self-contained, so that it can be sent to another process or machine."""

    cells: tuple[SourceCell, ...]
    inputs: Mapping[str, list[Inputs] | None]  # by exercise; None for a value
    limits: Limits
    files: Mapping[str, str]  # texts to write in the working directory, by name
    hidden: tuple[Path, ...]  # from the sandbox
    unsafe: bool  # without a sandbox


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of an answer for one input: a JSON value, or the reason why there is none."""

    value: Any = None
    error: str = ""
    changed: bool = False  # whether the answer changed its arguments, as its kernel reports


@dataclasses.dataclass
class Run:
    """The results of running a notebook."""

    answers: dict[str, list[Answer]]  # by exercise, one per input
    cells: dict[str, CellResult]  # by cell id
    seconds: float = 0.0

    def failure(self, cell_id: str) -> str:
        """Return why a cell failed; empty if it did not."""
        result = self.cells.get(cell_id)
        if result is None:
            return _NOT_RUN
        return _STOPPED.get(result.status, result.message if result.status == "error" else "")


def run_notebook(job: Job) -> Run:
    """Run cells in order, then request each exercise's values.

    If a cell or an answer kills its kernel, the others run again in a new kernel without it, while time remains.
    """
    begun = time.monotonic()
    until = begun + job.limits.total_s
    run, skipped = Run({}, {}), set[str]()
    while set(job.inputs) - set(run.answers) and time.monotonic() < until:
        with Kernel(job.limits, files=job.files, hidden=job.hidden, unsafe=job.unsafe) as kernel:
            _run_cells(kernel, job, run, skipped, until)
    for name, given in job.inputs.items():
        run.answers.setdefault(name, [Answer(error=_NOT_RUN)] * (1 if given is None else len(given)))
    run.seconds = time.monotonic() - begun
    return run


def _run_cells(kernel: Kernel, job: Job, run: Run, skipped: set[str], until: float) -> None:
    """Run all cells that are not skipped, and request each exercise's values behind its answer and its check.

    Later cells may bind the same names again. A cell that kills the kernel is skipped from now on.
    """
    due = {name: at for at, cell in enumerate(job.cells) for name in (cell.answers, cell.checks) if name}
    for at, cell in enumerate(job.cells):
        if cell.cell_id not in skipped and cell.source.strip():
            result = kernel.execute(cell.source, _time_for(kernel, until))
            run.cells.setdefault(cell.cell_id, result)
            if not kernel.alive:
                run.cells[cell.cell_id] = result
                skipped.add(cell.cell_id)
                return
        for name in [name for name in job.inputs if due.get(name) == at and name not in run.answers]:
            _ask(kernel, name, job.inputs[name], run, until)
            if not kernel.alive:
                return
        if not set(job.inputs) - set(run.answers):
            return
    for name in set(job.inputs) - set(run.answers):  # those without a separate cell
        _ask(kernel, name, job.inputs[name], run, until)


def _ask(kernel: Kernel, name: str, given: list[Inputs] | None, run: Run, until: float) -> None:
    if kernel.alive:
        result = kernel.execute(probe_code(name, given, kernel.limits.value_bytes), _time_for(kernel, until))
        run.answers[name] = _answers(result, 1 if given is None else len(given), kernel.limits.value_bytes)


def _time_for(kernel: Kernel, until: float) -> float:
    return max(0.0, min(kernel.limits.cell_s, until - time.monotonic()))


def _answers(result: CellResult, count: int, limit_bytes: int) -> list[Answer]:
    """Parse a probe's messages; always return ``count`` answers, whatever was sent."""
    reason = _STOPPED.get(result.status) or result.message or _NO_VALUE
    answers = [Answer(error=reason)] * count
    for text in result.answers[: 4 * count]:
        index, answer = _answer(text, limit_bytes)
        if 0 <= index < count:
            answers[index] = answer
    return answers


def _answer(text: str, limit_bytes: int) -> tuple[int, Answer]:
    """Return an answer's index and value; index -1 if the message is invalid."""
    try:
        sent = json.loads(text) if len(text) <= 2 * limit_bytes + 1000 else {}
        index = sent["index"] if type(sent["index"]) is int else -1
        if "error" in sent:
            return index, Answer(error=str(sent["error"])[:500])
        value = json.loads(sent["value"][:limit_bytes], object_hook=_decode)
    except (ValueError, KeyError, TypeError, RecursionError):
        return -1, Answer()
    return index, Answer(value, changed=sent.get("changed") is True)


def _decode(value: dict[str, Any]) -> Any:
    """Return the bytes that an object stands for, or the object itself."""
    text = value.get(BYTES)
    return bytes.fromhex(text) if isinstance(text, str) and len(value) == 1 else value
