"""Grade a class: rebuild each notebook, run it in a sandbox, score it outside; graded notebooks are skipped."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from labkit import __version__
from labkit.course.folder import INSTALLED
from labkit.course.source import SourceNotebook, read_sources
from labkit.errors import ArgumentError, GradingError
from labkit.grading.adjustments import read_adjustments
from labkit.grading.class_report import write_report
from labkit.grading.dask_cluster import was_lost
from labkit.grading.feedback import write_feedback
from labkit.grading.gradebook import Grade, read_grades, write_books, write_grade
from labkit.grading.rebuild import Rebuilt
from labkit.grading.run_notebook import Run, run_notebook
from labkit.grading.sandbox.limits import Limits
from labkit.grading.sandbox.start import kill_sandboxes, require_sandbox
from labkit.grading.score import ExerciseGrade, score
from labkit.grading.submissions import Submission, find_submissions
from labkit.grading.tasks import Task, TaskBuilder
from labkit.grading.untrusted_text import visible
from labkit.output_files import write_atomic
from labkit.progress import Progress, reporting
from labkit.records import Record

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ClassGrades(Record):
    """The result of grading a class."""

    graded: int  # notebooks graded now
    kept: int  # notebooks graded earlier and unchanged since
    students: int
    seed: int  # of the inputs
    problems: tuple[str, ...]  # skipped files and notebooks that could not be graded
    grades: tuple[Grade, ...] = dataclasses.field(repr=False)


def grade_course(
    source: str | Path,
    submissions: str | Path,
    out: str | Path,
    *,
    jobs: int = 1,
    seed: int | None = None,
    only: Sequence[str] | None = None,
    regrade: bool = False,
    unsafe_no_sandbox: bool = False,
    progress: Progress | bool | None = None,
    limits: Limits | None = None,
    executor: concurrent.futures.Executor | None = None,
) -> ClassGrades:
    """Grade a class's submissions; after an interruption, call it again to resume.

    ``source`` is the instructor's notebook with solutions, or a folder of them; ``submissions`` a folder or a zip. ``out``
    gets grades, gradebook.sqlite, grades.csv, feedback, report.html and grading.log; its adjustments.csv is read. ``only``
    names students. The default seed of the inputs is that of the existing grades, or a random one. An ``executor`` (threads
    by default) runs the notebooks, for example on a cluster: each run has its own sandbox; scoring happens in this process.
    """
    if jobs < 1:
        raise ArgumentError(f"jobs must be at least 1, not {jobs}")
    if not (unsafe_no_sandbox or executor):
        require_sandbox()
    sources = read_sources(source)
    found = find_submissions(submissions, sources)
    chosen = _chosen(found.submissions, only)
    folder = Path(out).expanduser().resolve()
    seed = _seed(folder, seed, regrade)
    hidden = (INSTALLED, *(Path(place).expanduser().resolve() for place in (source, submissions, out)))
    builder = TaskBuilder(folder, sources, seed, limits or Limits(), hidden, unsafe_no_sandbox)
    with _logging_to(folder / "grading.log"), reporting(progress, "grading", "notebook") as report:
        todo = [item for item in chosen if regrade or not builder.is_graded(item)]
        _LOG.info("%d notebooks to grade, %d already graded; labkit %s", len(todo), len(chosen) - len(todo), __version__)
        for problem in found.problems:
            _LOG.warning("%s", problem)
        ungraded = _grade_all(builder, todo, jobs, executor, report)
        _LOG.info("done")
    adjustments, grades = read_adjustments(folder), read_grades(folder)
    for write in (write_books, write_feedback, write_report):
        write(folder, grades, adjustments)
    students = len({grade.student for grade in grades})
    kept = len(chosen) - len(todo)
    return ClassGrades(len(todo) - len(ungraded), kept, students, seed, (*found.problems, *ungraded), tuple(grades))


def _chosen(submissions: Sequence[Submission], only: Sequence[str] | None) -> list[Submission]:
    if not only:
        return list(submissions)
    chosen = [item for item in submissions if item.student in only or item.display_name in only]
    if not chosen:
        raise ArgumentError(f"no student is named {', '.join(only)}: use the names of the folders in SUBMISSIONS")
    return chosen


def _seed(out: Path, seed: int | None, regrade: bool) -> int:
    """Return the seed and store it, so that the whole class is graded on the same inputs."""
    path = out / "grading.json"
    known = json.loads(path.read_text(encoding="utf-8"))["seed"] if path.exists() else None
    if known is not None and not regrade and seed not in (None, known):
        raise ArgumentError(f"{out} has grades with the seed {known}: omit --seed, or pass --regrade")
    chosen = seed if seed is not None else known if known is not None else secrets.randbelow(2**31)
    write_atomic(path, json.dumps({"seed": chosen}) + "\n")
    return int(chosen)


def _grade_all(
    builder: TaskBuilder,
    todo: Sequence[Submission],
    jobs: int,
    executor: concurrent.futures.Executor | None,
    report: Progress,
) -> list[str]:
    """Grade a few notebooks at a time; return messages about those that could not be graded."""
    problems: list[str] = []
    report(0, len(todo))
    pool = executor or concurrent.futures.ThreadPoolExecutor(jobs)
    waiting: dict[concurrent.futures.Future[Run], tuple[Task, Rebuilt]] = {}
    coming, done = iter(todo), 0
    try:
        while done < len(todo):
            for task in map(builder.task, coming):
                builder.reference(task.source, lambda job: _result(pool.submit(run_notebook, job)))
                if task.rebuilt is None:
                    _keep(builder, task, _no_points(task.source, task.problem), (task.problem,), 0.0)
                    done += 1
                    continue
                waiting[pool.submit(run_notebook, builder.job(task.source, task.rebuilt.cells))] = task, task.rebuilt
                if len(waiting) > jobs:
                    break
            for future in concurrent.futures.wait(waiting, return_when="FIRST_COMPLETED").done:
                problems += _score(builder, *waiting.pop(future), future)
                done += 1
            report(done, len(todo))
    finally:
        if executor is None:
            with kill_sandboxes():
                pool.shutdown(wait=True, cancel_futures=True)
    return problems


def _score(builder: TaskBuilder, task: Task, rebuilt: Rebuilt, future: concurrent.futures.Future[Run]) -> list[str]:
    """Score a finished run and write the grade; return the reason if there is none."""
    label = task.submission.entry.label
    try:
        run = _result(future)
        reference = builder.references[task.source.name]
        exercises = tuple(score(task.source, rebuilt, run, name, reference) for name in task.source.points)
    except GradingError as error:
        problem = f"{label}: not graded: {error}; run the command again"
    except Exception as error:  # an error in one untrusted file must not stop the others
        _LOG.exception("grading %s", label)
        problem = f"{label}: not graded: {type(error).__name__}; please report this with the file"
    else:
        forged = (item.problem for item in exercises if item.problem)
        _keep(builder, task, exercises, (*rebuilt.problems, *forged), run.seconds)
        return []
    _LOG.warning("%s", problem)
    return [problem]


def _result(future: concurrent.futures.Future[Run]) -> Run:
    """Return the finished run; raise GradingError if its worker was lost."""
    try:
        return future.result()
    except Exception as error:
        if was_lost(error):
            raise GradingError(f"the workers running it were lost ({type(error).__name__})") from error
        raise


def _keep(
    builder: TaskBuilder, task: Task, exercises: tuple[ExerciseGrade, ...], problems: tuple[str, ...], seconds: float
) -> None:
    """Write a grade, and the seconds that grading took."""
    grade = Grade(
        student=task.submission.student,
        display_name=task.submission.display_name,
        notebook=task.submission.notebook,
        checksum=task.checksum,
        source_checksum=task.source.checksum,
        seed=builder.seed,
        points=sum(item.points for item in exercises),
        of_points=sum(item.of_points for item in exercises),
        exercises=exercises,
        problems=problems,
    )
    write_grade(builder.out, grade)
    write_atomic(builder.out / "times" / grade.student / f"{grade.notebook}.json", json.dumps(round(seconds, 2)) + "\n")
    points = f"{grade.points:g} of {grade.of_points:g} points in {seconds:.1f} s"
    _LOG.info("%s, %s: %s. %s", grade.student, grade.notebook, points, " ".join(grade.problems))


def _no_points(source: SourceNotebook, problem: str) -> tuple[ExerciseGrade, ...]:
    return tuple(ExerciseGrade(name, 0.0, points, 0, 0, "", problem, "", problem) for name, points in source.points.items())


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Append log messages to a file, with untrusted names escaped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_EscapingFormatter("%(asctime)s %(levelname)s %(message)s"))
    level = _LOG.level
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOG.setLevel(level)
        _LOG.removeHandler(handler)
        handler.close()


class _EscapingFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        return super().formatMessage(record).replace("\n", "\\n")

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
