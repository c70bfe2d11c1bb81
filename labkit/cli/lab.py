"""Open the course's notebooks in JupyterLab.

Run it in the course's folder, or give the folder of the notebooks. With --work you work in your own copy, without
solutions and outputs. The copy is made if FOLDER has no notebooks yet; your work in it is kept. Without a clone of the
course you always work in a copy, in the folder llama-cpp-lab unless --work names another.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from labkit.cli.output import Output
from labkit.extras import DISTRIBUTION, missing
from labkit.output_files import user_path

HELP = "open the course in JupyterLab"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, help="folder of the notebooks; usually found automatically")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="open your own copy, with exercises to solve")
    parser.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.course.folder import INSTALLED, find_notebooks

    course = find_notebooks(args.folder)
    folder = user_path(args.work) if args.work else Path(DISTRIBUTION) if course == INSTALLED else course
    if find_spec("jupyterlab") is None:
        raise missing("jupyterlab")
    if folder != course and not any(folder.glob("*.ipynb")):
        from labkit.course.release import release_course

        copied = release_course(course, folder).notebooks
        out.say(f"copied {len(copied)} notebooks, without solutions, to {folder}")
    out.say(f"opening {folder} in JupyterLab; stop it with Ctrl-C")
    command = [sys.executable, "-m", "jupyterlab", str(folder)]
    return subprocess.call([*command, "--no-browser"] if args.no_browser else command)
