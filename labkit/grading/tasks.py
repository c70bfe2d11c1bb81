"""Grading tasks: submissions, read and rebuilt one at a time, with the inputs to run them on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import labkit.course
from labkit import __version__
from labkit.cache import sha256
from labkit.course.source import SourceCell, SourceNotebook
from labkit.errors import GradingError
from labkit.grading.gradebook import read_grade
from labkit.grading.rebuild import Rebuilt, rebuild
from labkit.grading.run_notebook import Job, Run
from labkit.grading.sandbox.limits import Limits
from labkit.grading.score import Reference, reference_of
from labkit.grading.submissions import Submission


@dataclasses.dataclass(frozen=True)
class Task:
    """A submission, ready to run unless it cannot be read."""

    submission: Submission
    source: SourceNotebook
    checksum: str  # SHA-256 of the submitted file
    rebuilt: Rebuilt | None
    problem: str  # why there is nothing to run


@dataclasses.dataclass
class TaskBuilder:
    """Builds tasks; runs the instructor's solution once per notebook, before the first of its submissions."""

    out: Path
    sources: Mapping[str, SourceNotebook]
    seed: int
    limits: Limits
    hidden: tuple[Path, ...]
    unsafe: bool
    references: dict[str, Reference] = dataclasses.field(default_factory=dict)

    def why_to_grade(self, submission: Submission) -> str:
        """Return why a submission needs grading: "new", or what changed since its grade; empty if its grade still holds."""
        grade = read_grade(self.out, submission.student, submission.notebook)
        content, _ = _read(submission)
        if grade is None or grade.checksum != sha256(content):
            return "new"
        now = self.decided_by()
        known = {"notebook": grade.source_checksum, "seed": grade.seed, **grade.decided_by}
        current = {"notebook": self.sources[submission.notebook].checksum, "seed": self.seed, **now}
        return " and ".join(name for name in current if known.get(name) != current[name])

    def decided_by(self) -> dict[str, Any]:
        """Return what decides a grade besides the files and the seed, as JSON keeps it."""
        limits = {name: float(value) for name, value in dataclasses.asdict(self.limits).items()}
        return {"labkit": __version__, "exercises": _exercises_version(), "sandbox": not self.unsafe, "limits": limits}

    def task(self, submission: Submission) -> Task:
        """Read and rebuild a submission; this is done one at a time, as a whole class would not fit in memory."""
        source, rebuilt = self.sources[submission.notebook], None
        content, problem = _read(submission)
        try:
            rebuilt = None if problem else rebuild(source, content)
        except GradingError as error:
            problem = str(error)
        return Task(submission, source, sha256(content), rebuilt, problem)

    def job(self, source: SourceNotebook, cells: tuple[SourceCell, ...]) -> Job:
        """Return a job that runs the given cells as this notebook."""
        inputs = {name: exercise.inputs_to_try(self.seed) for name, exercise in source.exercises.items()}
        return Job(cells, inputs, self.limits, source.files, self.hidden, self.unsafe)

    def reference(self, source: SourceNotebook, run: Callable[[Job], Run]) -> Reference:
        """Return the results of the instructor's solution, running it if needed."""
        if source.name not in self.references:
            self.references[source.name] = reference_of(source, run(self.job(source, source.cells)))
        return self.references[source.name]


def _read(submission: Submission) -> tuple[bytes, str]:
    """Return the content, or the reason why it cannot be read."""
    try:
        return submission.entry.read(), ""
    except GradingError as error:
        return b"", str(error)


@functools.cache
def _exercises_version() -> str:
    """Return a checksum of the course's exercises and of the code that judges answers."""
    folder = Path(labkit.course.__file__).parent
    return sha256("".join(sha256(path.read_bytes()) for path in sorted(folder.rglob("*.py"))))
