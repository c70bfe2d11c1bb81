"""Test the exercises: solutions must earn all points, stubs none, and known mistakes must get their hint."""

from __future__ import annotations

import argparse
from pathlib import Path

from labkit.cli.output import Output
from labkit.units import counted

HELP = "test the exercises: solutions, stubs and known mistakes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", type=Path, help="folder with solutions; usually found automatically")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.course.folder import find_notebooks
    from labkit.course.selftest import selftest_course

    tests = selftest_course(find_notebooks(args.source))
    rows = [(one.name, one.notebook, f"{one.points:g}", one.n_mistakes, one.fault or "ok") for one in tests]
    out.table(("exercise", "notebook", "points", "mistakes", "result"), rows)
    faults = sum(bool(one.fault) for one in tests)
    out.say(f"{counted(len(tests), 'exercise')}, {faults} faulty")
    out.result({"exercises": [dict(one) for one in tests], "faults": faults})
    return 1 if faults else 0
