"""Grade a class's notebooks: rebuild each from yours, run it in a sandbox without network or files, check results outside.

SUBMISSIONS is a folder (one folder per student, zip files, downloads from Moodle or Canvas, nbgrader's submitted/) or a
zip file. GRADES receives grades.csv, gradebook.sqlite, one JSON file and one feedback page per student, report.html and
grading.log. To adjust grades, edit its adjustments.csv: a factor and extra points. Run the same command again to resume.
An exercise's points are proportional to its correct results, for its examples or for random inputs, whichever is lower,
rounded down to half points.
"""

from __future__ import annotations

import argparse
import contextlib

from labkit.cli.output import Output

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
        )
    for problem in result.problems:
        out.warn(problem)
    rows = [(grade.display_name, grade.notebook, f"{grade.points:g}", f"{grade.of_points:g}") for grade in result.grades]
    out.table(("student", "notebook", "points", "of"), rows)
    out.say(f"{result.graded} graded, {result.kept} unchanged; grades.csv and report.html are in {args.out}")
    summary = [{"student": row[0], "notebook": row[1], "points": row[2], "of_points": row[3]} for row in rows]
    out.result({**{name: result[name] for name in result if name != "grades"}, "grades": summary})
    return 0
