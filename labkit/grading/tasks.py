"""Grading tasks: submissions, read and rebuilt one at a time, with the inputs to run them on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from labkit.cache import sha256
from labkit.course.source import SourceCell, SourceNotebook
from labkit.errors import GradingError
from labkit.grading.gradebook import read_grade
from labkit.grading.rebuild import Rebuilt, rebuild
from labkit.grading.run_notebook import Job, Run
from labkit.grading.sandbox.limits import Limits
from labkit.grading.score import Reference, inputs_to_try, reference_of
from labkit.grading.submissions import Submission

__all__ = ["PendingTask", "Task", "TaskBuilder"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A submission, ready to run unless it cannot be read.

    Parameters
    ----------
    submission : Submission
    source : SourceNotebook
    checksum : str
        SHA-256 of the submitted file.
    seed : int
        Seed of the inputs.
    rebuilt : Rebuilt or None
    problem : str
        Reason if there is nothing to run.
    """

    submission: Submission
    source: SourceNotebook
    checksum: str
    seed: int
    rebuilt: Rebuilt | None
    problem: str = ""


@dataclasses.dataclass
class TaskBuilder:
    """Builds tasks; runs the instructor's solution once per notebook, before the first of its submissions."""

    out: Path
    sources: Mapping[str, SourceNotebook]
    seed: int
    limits: Limits
    hidden: tuple[Path, ...]
    unsafe: bool
    regrade: bool
    references: dict[str, Reference] = dataclasses.field(default_factory=dict)

    def pending(self, submissions: Sequence[Submission]) -> Iterator[PendingTask]:
        """Yield the submissions to grade."""
        for submission in submissions:
            pending = PendingTask(self, submission)
            if self.regrade or not pending.is_graded():
                yield pending

    def job(self, source: SourceNotebook, cells: tuple[SourceCell, ...]) -> Job:
        """Return a job that runs the given cells as this notebook."""
        inputs = {name: inputs_to_try(exercise, self.seed) for name, exercise in source.exercises.items()}
        return Job(cells, inputs, self.limits, source.files, self.hidden, self.unsafe)

    def reference(self, source: SourceNotebook, run: Callable[[Job], Run]) -> Reference:
        """Return the results of the instructor's solution, running it if needed."""
        if source.name not in self.references:
            self.references[source.name] = reference_of(source, run(self.job(source, source.cells)))
        return self.references[source.name]


@dataclasses.dataclass
class PendingTask:
    """A submission to grade; its file is read only in `build`, as a whole class would not fit in memory."""

    builder: TaskBuilder
    submission: Submission

    @property
    def source(self) -> SourceNotebook:
        """The instructor's notebook."""
        return self.builder.sources[self.submission.notebook]

    def read(self) -> tuple[bytes, str]:
        """Return the content, or the reason why it cannot be read."""
        try:
            return self.submission.entry.read(), ""
        except GradingError as error:
            return b"", str(error)

    def is_graded(self) -> bool:
        """Return whether this exact file already has a grade, with the same notebook and seed."""
        grade = read_grade(self.builder.out, self.submission.student, self.submission.notebook)
        if grade is None:
            return False
        current = (sha256(self.read()[0]), self.source.checksum, self.builder.seed)
        return (grade.checksum, grade.source_checksum, grade.seed) == current

    def build(self) -> Task:
        """Read and rebuild the submission."""
        content, problem = self.read()
        rebuilt = None
        try:
            rebuilt = None if problem else rebuild(self.source, content)
        except GradingError as error:
            problem = str(error)
        return Task(self.submission, self.source, sha256(content), self.builder.seed, rebuilt, problem)
