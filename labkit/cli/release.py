"""Write the students' version of the notebooks, without solutions; or, with --for, an autograder with the solutions.

An autograder has your notebooks, this labkit and a script that grades one submission (Gradescope, Classroom 50) or the
folder submissions/ of a private repository (GitHub Actions). It grades in a sandbox. Where a platform's container does not
allow one, it stops; --unsafe-no-sandbox makes one that grades without, and says so in each result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from labkit.cli.output import Output
from labkit.errors import ArgumentError
from labkit.units import counted

HELP = "write the notebooks without solutions, for students"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", type=Path, help="folder with solutions; usually found automatically")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the students' version")
    parser.add_argument("--for", dest="platform", choices=("gradescope", "classroom", "actions"), help="write an autograder")
    parser.add_argument("--unsafe-no-sandbox", action="store_true", help="with --for: run submitted code without a sandbox")
    parser.add_argument(
        "--publish-solutions", action="store_true", help="with --for classroom: its Pages have the solutions"
    )
    parser.add_argument("--force", action="store_true", help="replace existing notebooks")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.course.folder import find_notebooks
    from labkit.course.release import release_course

    if args.platform:
        return _release_for(args, out)
    result = release_course(find_notebooks(args.source), args.out, overwrite=args.force)
    rows = [(one.name, ", ".join(one.exercises) or "none", f"{one.points:g}") for one in result.notebooks]
    out.table(("notebook", "exercises", "points"), rows)
    out.say(f"{counted(len(rows), 'notebook')}, {counted(result.points, 'point')}, in {result.folder}")
    out.result(result)
    return 0


def _release_for(args: argparse.Namespace, out: Output) -> int:
    from labkit.course.folder import find_notebooks
    from labkit.grading.platforms import PUBLISHES, package_for

    if args.platform == "classroom" and not args.publish_solutions:
        raise ArgumentError(PUBLISHES)
    if args.unsafe_no_sandbox:
        out.warn("no sandbox: submitted code can read the solutions and change its result; each result says so")
    source, options = find_notebooks(args.source), {"unsafe_no_sandbox": args.unsafe_no_sandbox, "overwrite": args.force}
    files = package_for(args.platform, source, args.out, **options)
    wrote = f"wrote {counted(len(files), 'file')} for {args.platform} to {args.out}"
    out.say(f"{wrote}; they have the solutions: give them to no student")
    out.result({"platform": args.platform, "files": [str(path) for path in files]})
    return 0
