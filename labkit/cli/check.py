"""Check your own implementation of the lab's seven functions; prints one line per function."""

from __future__ import annotations

import argparse
from pathlib import Path

from labkit.cli.output import Output
from labkit.errors import ArgumentError
from labkit.progress import reporting

HELP = "check your own implementation of the seven functions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.py", help="your implementation")
    parser.add_argument("--only", action="append", metavar="FUNCTION", help="check only this function; can be repeated")
    parser.add_argument("--skeleton", action="store_true", help="write a file with the seven functions to fill in, and exit")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="time limit per function (60)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.conformance import check_file, write_skeleton

    if args.limit <= 0:
        raise ArgumentError(f"--limit {args.limit:g} is out of range: give a positive number of seconds per function")
    if args.skeleton:
        path = write_skeleton(args.file)
        out.say(f"wrote {path}: fill in the functions, then run labkit check {path.name}")
        out.result({"file": str(path)})
        return 0
    with reporting(not args.json, "checking", "function") as progress:
        report = check_file(args.file, args.only, limit_s=args.limit, progress=progress)
    out.say(report.to_text())
    out.result({"file": report.file, "passed": report.passed, "functions": [dict(row) for row in report.functions]})
    return 0 if report.passed else 1
