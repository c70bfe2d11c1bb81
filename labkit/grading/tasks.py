"""What is to be graded: submissions that are read when their turn comes, rebuilt, with the inputs to try them on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from labkit.course.source import SourceCell, SourceNotebook
from labkit.errors import GradingError
from labkit.grading.gradebook import read_grade
from labkit.grading.rebuild import Rebuilt, rebuild
from labkit.grading.run_notebook import Job, Run
from labkit.grading.sandbox.limits import Limits
from labkit.grading.score import Reference, inputs_to_try, reference_of
from labkit.grading.submissions import Submission

__all__ = ["Preparing", "Reading", "Task"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A submission that is ready to run, or one that cannot be.

    Parameters
    ----------
    submission : Submission
    source : SourceNotebook
    checksum : str
        SHA-256 of what was handed in.
    seed : int
        Of the inputs.
    rebuilt : Rebuilt or None
    problem : str
        Why there is nothing to run.
    """

    submission: Submission
    source: SourceNotebook
    checksum: str
    seed: int
    rebuilt: Rebuilt | None
    problem: str = ""


@dataclasses.dataclass
class Preparing:
    """Makes tasks; the instructor's solution is run once a notebook, when the first of its submissions comes."""

    out: Path
    sources: Mapping[str, SourceNotebook]
    seed: int
    limits: Limits
    hidden: tuple[Path, ...]
    unsafe: bool
    regrade: bool
    references: dict[str, Reference] = dataclasses.field(default_factory=dict)

    def readings(self, submissions: Sequence[Submission]) -> Iterator[Reading]:
        """Yield what is to be graded."""
        for submission in submissions:
            reading = Reading(self, submission)
            if self.regrade or not reading.is_graded():
                yield reading

    def job(self, source: SourceNotebook, cells: tuple[SourceCell, ...]) -> Job:
        """Return what runs some cells in the place of a notebook's."""
        inputs = {name: inputs_to_try(exercise, self.seed) for name, exercise in source.exercises.items()}
        return Job(cells, inputs, self.limits, source.files, self.hidden, self.unsafe)

    def reference(self, source: SourceNotebook, run: Callable[[Job], Run]) -> Reference:
        """Return what the instructor's solution gives."""
        if source.name not in self.references:
            self.references[source.name] = reference_of(source, run(self.job(source, source.cells)))
        return self.references[source.name]


@dataclasses.dataclass
class Reading:
    """A submission that is read when its turn comes: a class does not fit into memory."""

    preparing: Preparing
    submission: Submission

    @property
    def source(self) -> SourceNotebook:
        """The instructor's notebook."""
        return self.preparing.sources[self.submission.notebook]

    def read(self) -> tuple[bytes, str]:
        """Return the content, or why it cannot be read."""
        try:
            return self.submission.entry.read(), ""
        except GradingError as error:
            return b"", str(error)

    def is_graded(self) -> bool:
        """Whether there is a grade of just this file, by this notebook, for these inputs."""
        grade = read_grade(self.preparing.out, self.submission.student, self.submission.notebook)
        if grade is None:
            return False
        now = (_sha256(self.read()[0]), self.source.checksum, self.preparing.seed)
        return (grade.checksum, grade.source_checksum, grade.seed) == now

    def task(self) -> Task:
        """Return the submission, rebuilt."""
        content, problem = self.read()
        rebuilt = None
        try:
            rebuilt = None if problem else rebuild(self.source, content)
        except GradingError as error:
            problem = str(error)
        return Task(self.submission, self.source, _sha256(content), self.preparing.seed, rebuilt, problem)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
