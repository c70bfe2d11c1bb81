"""Grade a class's notebooks: rebuilt from yours, run in sandboxes without network or files, judged outside.

SUBMISSIONS is a folder (a folder a student, zips, downloads of Moodle or Canvas, nbgrader's submitted/) or a zip.
GRADES gets grades.csv, gradebook.sqlite, a JSON and a feedback page a student, report.html and grading.log; adjustments.csv
in it is yours: times a factor, plus points. What was ended is completed by the same command again. An exercise's points are
its share of what came out right, of its examples or of inputs drawn for grading, the smaller one, rounded down to half
points.
"""

from __future__ import annotations

import argparse
import contextlib

from labkit.cli.output import Output

HELP = "grade a class's notebooks in sandboxes (for instructors)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("submissions", metavar="SUBMISSIONS", help="a folder or a zip of what was handed in")
    parser.add_argument("--source", required=True, metavar="NOTEBOOKS", help="your notebook or their folder, with solutions")
    parser.add_argument("--out", required=True, metavar="GRADES", help="the folder for grades and pages")
    parser.add_argument("-j", "--jobs", type=int, metavar="N", help="notebooks at a time (1; with --scheduler, all of its)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="run the notebooks on the workers of a dask cluster")
    parser.add_argument("--only", action="append", metavar="STUDENT", help="grade this student alone; can be repeated")
    parser.add_argument("--regrade", action="store_true", help="grade again what has a grade")
    parser.add_argument("--seed", type=int, metavar="N", help="of the inputs; drawn, and kept in GRADES, by default")
    parser.add_argument("--cell-limit", type=float, metavar="S", help="seconds that a cell may take (60)")
    parser.add_argument("--total-limit", type=float, metavar="S", help="seconds that a notebook may take (600)")
    parser.add_argument("--unsafe-no-sandbox", action="store_true", help="run strangers' code with your own rights")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    from labkit.grading.dask_cluster import cluster
    from labkit.grading.grade import grade_course
    from labkit.grading.sandbox.limits import Limits

    given = {"cell_s": args.cell_limit, "total_s": args.total_limit}
    if args.unsafe_no_sandbox:
        out.warn("without a sandbox: the notebooks run with your rights and can read, change and send all that you can")
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
    out.say(f"{result.graded} graded, {result.kept} kept as they were; grades.csv and report.html are in {args.out}")
    summary = [{"student": row[0], "notebook": row[1], "points": row[2], "of_points": row[3]} for row in rows]
    out.result({**{name: result[name] for name in result if name != "grades"}, "grades": summary})
    return 0
