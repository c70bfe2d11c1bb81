"""Grade a class: rebuild each notebook, run it in a sandbox, score it outside; graded notebooks are skipped."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import secrets
import traceback
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, tzinfo
from pathlib import Path

from labkit import __version__
from labkit.course.folder import INSTALLED
from labkit.course.source import SourceNotebook, read_sources
from labkit.errors import ArgumentError, GradingError
from labkit.grading.adjustments import Adjustment, read_adjustments
from labkit.grading.class_report import write_report
from labkit.grading.dask_cluster import was_lost
from labkit.grading.feedback import write_feedback
from labkit.grading.gradebook import Grade, adjusted, put_aside, read_grades, write_books, write_grade
from labkit.grading.notebook_names import marks_of
from labkit.grading.rebuild import Rebuilt
from labkit.grading.roster import TOTAL, FilledRoster, Roster
from labkit.grading.run_notebook import Run, run_notebook
from labkit.grading.sandbox.limits import Limits
from labkit.grading.sandbox.start import kill_sandboxes, require_sandbox
from labkit.grading.score import ExerciseGrade, score
from labkit.grading.submissions import Class, Submission, find_submissions
from labkit.grading.tasks import Task, TaskBuilder
from labkit.grading.untrusted_text import visible
from labkit.output_files import user_path, write_atomic, writing
from labkit.progress import Progress, reporting
from labkit.records import Record
from labkit.units import counted


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ClassGrades(Record):
    """The result of grading a class."""

    graded: int  # notebooks graded now
    kept: int  # notebooks graded earlier and unchanged since
    students: int
    seed: int  # of the inputs
    problems: tuple[str, ...]  # skipped files and notebooks that could not be graded
    roster: FilledRoster | None
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
    zone: tzinfo | None = None,
    student_level: int | None = None,
    roster: str | Path | None = None,
    columns: Sequence[str] = (),
    match_names: bool = False,
) -> ClassGrades:
    """Grade a class's submissions; after an interruption, call it again to resume.

    ``source`` is the instructor's notebook with solutions, or a folder of them; ``submissions`` a folder or a zip. ``out``
    gets grades, gradebook.sqlite, grades.csv, feedback, report.html and grading.log; its adjustments.csv is read. ``only``
    names students. The default seed of the inputs is that of the existing grades, or a random one. An ``executor`` (threads
    by default) runs the notebooks, for example on a cluster: each run has its own sandbox; scoring happens in this process.
    ``zone`` and ``student_level`` are those of `find_submissions`; ``roster``, ``columns`` and ``match_names`` of `Roster`.
    """
    if jobs < 1:
        raise ArgumentError(f"jobs must be at least 1, not {jobs}")
    if not (unsafe_no_sandbox or executor):
        require_sandbox()
    sources = read_sources(source)
    marks = {name: marks_of(read) for name, read in sources.items()}
    folder = user_path(out).resolve()
    found = find_submissions(submissions, sources, marks, zone=zone, level=student_level, out=folder)
    chosen = _chosen(found.submissions, only)
    list_of_class = Roster(roster, sources, columns, match_names=match_names) if roster else None
    notes = list(found.problems)
    gone = put_aside(folder, {student.student for student in found.students}, sources) if found.submissions else []
    notes += [f"{name}: no submission any more: the grades are in {folder / 'gone'} now, not in the books" for name in gone]
    read_adjustments(folder, *_known_names(folder, found, sources))  # a wrong line stops here, not after grading
    seed = _seed(folder, seed, regrade)
    hidden = (INSTALLED, *(user_path(place).resolve() for place in (source, submissions, out)))
    builder = TaskBuilder(folder, sources, seed, limits or Limits(), hidden, unsafe_no_sandbox)
    with writing(folder / "grading.log"):
        (folder / "grading.log").open("a").close()
    with reporting(progress, "grading", "notebook") as report:
        reasons = {item: "new" if regrade else builder.why_to_grade(item) for item in chosen}
        todo = [item for item in chosen if reasons[item]]
        for reason, count in Counter(filter(None, reasons.values())).items():
            again = f"{counted(count, 'kept grade')} out of date, graded again: changed: {reason}"
            notes += [again] if reason != "new" else []
        counts = f"{counted(len(todo), 'notebook')} to grade, {len(chosen) - len(todo)} already graded; labkit {__version__}"
        _log(folder, "INFO", counts)
        for note in notes:
            _log(folder, "WARNING", note)
        ungraded = _grade_all(builder, todo, jobs, executor, report)
        _log(folder, "INFO", "done")
    notes += ungraded
    grades = read_grades(folder)
    adjustments = read_adjustments(folder, *_known_names(folder, found, sources))
    write_books(folder, grades, adjustments, found.students)
    write_feedback(folder, grades, adjustments)
    filled = list_of_class.fill(folder, found.students, _points(grades, adjustments)) if list_of_class else None
    if filled:
        notes += filled.problems
        notes += [f"{name}: in the roster, without a submission" for name in filled.without_submission]
    write_report(folder, grades, adjustments, notes)
    students = len({grade.student for grade in grades})
    return ClassGrades(
        len(todo) - len(ungraded), len(chosen) - len(todo), students, seed, tuple(notes), filled, tuple(grades)
    )


def _chosen(submissions: Sequence[Submission], only: Sequence[str] | None) -> list[Submission]:
    if not only:
        return list(submissions)
    chosen = [item for item in submissions if item.student in only or item.display_name in only]
    if not chosen:
        raise ArgumentError(f"no student is named {', '.join(only)}: use the names of the folders in SUBMISSIONS")
    return chosen


def _known_names(out: Path, found: Class, sources: Collection[str]) -> tuple[dict[str, str], set[str]]:
    """Return the names that adjustments may use: of students (as in files, or as shown if unique), and of notebooks."""
    shown = Counter(student.display_name for student in found.students)
    students = {student.display_name: student.student for student in found.students if shown[student.display_name] == 1}
    graded = sorted((out / "grades").glob("*/*.json"))
    keys = [*(student.student for student in found.students), *(path.parent.name for path in graded)]
    return {**students, **{key: key for key in keys}}, {*sources, *(path.stem for path in graded)}


def _points(grades: Sequence[Grade], adjustments: Sequence[Adjustment]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return points and full points by student and notebook, and of all notebooks together."""
    points = {(grade.student, grade.notebook): (adjusted(grade, adjustments), grade.of_points) for grade in grades}
    for (student, _), (own, full) in list(points.items()):
        before = points.get((student, TOTAL), (0.0, 0.0))
        points[student, TOTAL] = (before[0] + own, before[1] + full)
    return points


def _seed(out: Path, seed: int | None, regrade: bool) -> int:
    """Return the seed and store it, so that the whole class is graded on the same inputs."""
    path = out / "grading.json"
    try:
        known = int(json.loads(path.read_text(encoding="utf-8"))["seed"])
    except FileNotFoundError:
        known = None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f'{path} cannot be read ({error}): write {{"seed": N}} into it, or use another folder') from None
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
        _log(builder.out, "ERROR", f"grading {label}: {traceback.format_exc()}")
        problem = f"{label}: not graded: {type(error).__name__}; please report this with the file"
    else:
        disagreements = (item.problem for item in exercises if item.problem)
        _keep(builder, task, exercises, (*rebuilt.problems, *disagreements), run.seconds)
        return []
    _log(builder.out, "WARNING", problem)
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
        decided_by=builder.decided_by(),
        points=sum(item.points for item in exercises),
        of_points=sum(item.of_points for item in exercises),
        exercises=exercises,
        problems=problems,
    )
    write_grade(builder.out, grade)
    write_atomic(builder.out / "times" / grade.student / f"{grade.notebook}.json", json.dumps(round(seconds, 2)) + "\n")
    points = f"{grade.points:g} of {grade.of_points:g} points in {seconds:.1f} s"
    _log(builder.out, "INFO", f"{grade.student}, {grade.notebook}: {points}. {' '.join(grade.problems)}")


def _no_points(source: SourceNotebook, problem: str) -> tuple[ExerciseGrade, ...]:
    return tuple(ExerciseGrade(name, 0.0, points, 0, 0, "", problem, "", problem) for name, points in source.points.items())


def _log(out: Path, level: str, text: str) -> None:
    """Append a line to ``grading.log``, with untrusted names escaped; a full disk is reported by the grades on it."""
    line = visible(f"{datetime.now():%Y-%m-%d %H:%M:%S} {level} {text}").replace("\n", "\\n")
    with (
        contextlib.suppress(OSError),
        (out / "grading.log").open("a", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        stream.write(f"{line}\n")
