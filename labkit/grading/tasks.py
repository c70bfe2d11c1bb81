"""Grading tasks: submissions, read and rebuilt one at a time, with the inputs to run them on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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

    def is_graded(self, submission: Submission) -> bool:
        """Return whether this exact file already has a grade, with the same notebook and seed."""
        grade = read_grade(self.out, submission.student, submission.notebook)
        if grade is None:
            return False
        content, _ = _read(submission)
        current = (sha256(content), self.sources[submission.notebook].checksum, self.seed)
        return (grade.checksum, grade.source_checksum, grade.seed) == current

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
        inputs = {name: inputs_to_try(exercise, self.seed) for name, exercise in source.exercises.items()}
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
