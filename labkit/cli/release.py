"""Write the students' version of the notebooks, without solutions."""

from __future__ import annotations

import argparse
from pathlib import Path

from labkit.cli.output import Output

HELP = "write the notebooks without solutions, for students"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", type=Path, help="folder with solutions; usually found automatically")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the students' version")
    parser.add_argument("--force", action="store_true", help="replace existing notebooks")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.course.folder import find_notebooks
    from labkit.course.release import release_course

    result = release_course(find_notebooks(args.source), args.out, overwrite=args.force)
    rows = [(one.name, ", ".join(one.exercises) or "none", f"{one.points:g}") for one in result.notebooks]
    out.table(("notebook", "exercises", "points"), rows)
    out.say(f"{len(rows)} notebooks, {result.points:g} points, in {result.folder}")
    out.result(result)
    return 0
