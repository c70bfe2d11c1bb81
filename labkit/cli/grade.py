"""Grade a class's notebooks: rebuild each from yours, run it in a sandbox without network or files, check results outside.

SUBMISSIONS is a folder or a zip file: one folder per student, also in folders per week or group; zip files; downloads from
Moodle, Canvas, Blackboard, Brightspace or Gradescope; nbgrader's course folder. GRADES receives grades.csv,
gradebook.sqlite, one JSON file and one feedback page per student, report.html and grading.log.
To adjust grades, edit its adjustments.csv: a factor and extra
points. Run the same command again to resume. With --roster, GRADES also receives import-EXPORT.csv: your learning system's
own export with the points in its columns, to import unchanged. Students are matched by number, login or e-mail address.
An exercise's points are proportional to its correct results, for its examples or for random inputs, whichever is lower,
rounded down to half points.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from datetime import timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from labkit.cli.output import Output
from labkit.errors import ArgumentError
from labkit.output_files import user_path
from labkit.units import counted

HELP = "grade a class's notebooks in sandboxes (for instructors)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("submissions", metavar="SUBMISSIONS", help="folder or zip file of the submissions")
    parser.add_argument("--source", required=True, metavar="NOTEBOOKS", help="your notebook or folder, with solutions")
    parser.add_argument("--out", required=True, metavar="GRADES", help="folder for grades and feedback pages")
    parser.add_argument("-j", "--jobs", type=int, metavar="N", help="parallel notebooks (1; with --scheduler: its threads)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="run the notebooks on the workers of a dask cluster")
    parser.add_argument("--only", action="append", metavar="STUDENT", help="grade only this student; can be repeated")
    parser.add_argument("--regrade", action="store_true", help="also grade notebooks that have a grade")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the inputs; default: random, and stored in GRADES")
    parser.add_argument("--cell-limit", type=float, metavar="S", help="time limit per cell in seconds (60)")
    parser.add_argument("--total-limit", type=float, metavar="S", help="time limit per notebook in seconds (600)")
    parser.add_argument("--student-level", type=int, metavar="N", help="folder that names the student; 1 is the topmost")
    parser.add_argument("--timezone", metavar="ZONE", help="where zips were made, such as Europe/Berlin; default: here")
    parser.add_argument("--roster", metavar="EXPORT", help="CSV export of Canvas or Moodle, or a class list, to fill")
    parser.add_argument("--column", action="append", default=[], metavar="NOTEBOOK=HEADER", help="its column for a notebook")
    parser.add_argument("--match-names", action="store_true", help="also match the roster by exact, unique full names")
    parser.add_argument("--results", choices=("gradescope", "classroom", "actions"), help="also write its result file")
    parser.add_argument("--unsafe-no-sandbox", action="store_true", help="run untrusted code with your own permissions")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.grading.dask_cluster import cluster
    from labkit.grading.grade import grade_course
    from labkit.grading.sandbox.limits import Limits

    given = {"cell_s": args.cell_limit, "total_s": args.total_limit}
    if args.unsafe_no_sandbox:
        out.warn("no sandbox: the notebooks run with your permissions and can read, change and send everything you can")
    with contextlib.ExitStack() as stack:
        executor, most = None, 1
        if args.scheduler:
            executor, most = stack.enter_context(cluster(args.scheduler, unsafe_no_sandbox=args.unsafe_no_sandbox))
        result = grade_course(
            args.source,
            args.submissions,
            args.out,
            jobs=most if args.jobs is None else args.jobs,
            seed=args.seed,
            only=args.only,
            regrade=args.regrade,
            unsafe_no_sandbox=args.unsafe_no_sandbox,
            limits=Limits(**{name: value for name, value in given.items() if value is not None}),
            progress=not args.json,
            executor=executor,
            zone=_zone(args.timezone),
            student_level=args.student_level,
            roster=args.roster,
            columns=args.column,
            match_names=args.match_names,
        )
    if args.results:
        from labkit.grading.platforms import write_results

        write_results(args.results, user_path(args.out), result.grades, result.problems, unsafe=args.unsafe_no_sandbox)
    for problem in result.problems:
        out.warn(problem)
    rows = [(grade.display_name, grade.notebook, f"{grade.points:g}", f"{grade.of_points:g}") for grade in result.grades]
    out.table(("student", "notebook", "points", "of"), rows)
    out.say(f"{result.graded} graded, {result.kept} unchanged; grades.csv and report.html are in {args.out}")
    if result.roster:
        missing = len(result.roster.without_submission)
        filled = f"{counted(result.roster.cells, 'grade')} filled into {result.roster.file}"
        out.say(f"{filled}; {missing} of its students without a submission")
    summary = [{"student": row[0], "notebook": row[1], "points": row[2], "of_points": row[3]} for row in rows]
    out.result({**{name: result[name] for name in result if name != "grades"}, "grades": summary})
    return 0


def _zone(name: str | None) -> tzinfo | None:
    """Return a time zone by its name, or by its distance from UTC such as +02:00."""
    if name is None:
        return None
    try:
        if match := re.fullmatch(r"([+-])(\d\d):?(\d\d)", name):
            distance = timedelta(hours=int(match[2]), minutes=int(match[3]))
            return timezone(-distance if match[1] == "-" else distance)
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise ArgumentError(f"no time zone is named {name!r}: give one such as Europe/Berlin, or +02:00") from None
