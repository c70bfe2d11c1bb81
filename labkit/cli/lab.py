"""Open the course's notebooks in JupyterLab.

Run it in the course's folder, or give the folder of the notebooks. With --work you work in your own copy, without
solutions and outputs. The copy is made if FOLDER has no notebooks yet; your work in it is kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from labkit.cli.output import Output
from labkit.errors import LabkitError

HELP = "open the course in JupyterLab"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, help="folder of the notebooks; usually found automatically")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="open your own copy, with exercises to solve")
    parser.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.course.release import release_course

    folder = args.work or find_notebooks(args.folder)
    if args.work and not any(folder.glob("*.ipynb")):
        copied = release_course(find_notebooks(args.folder), folder).notebooks
        out.say(f"copied {len(copied)} notebooks, without solutions, to {folder}")
    if find_spec("jupyterlab") is None:
        raise LabkitError("jupyterlab is not installed: pip install jupyterlab, then labkit lab")
    out.say(f"opening {folder} in JupyterLab; stop it with Ctrl-C")
    command = [sys.executable, "-m", "jupyterlab", str(folder)]
    return subprocess.call([*command, "--no-browser"] if args.no_browser else command)


def find_notebooks(given: Path | None) -> Path:
    """Return the course's folder: the one given, or ``notebooks`` here, in a parent folder, or next to the package."""
    checkout = Path(__file__).resolve().parents[2]
    candidates = [given] if given else [folder / "notebooks" for folder in (Path.cwd(), *Path.cwd().parents, checkout)]
    for folder in candidates:
        if any(folder.glob("00_*.ipynb")) or (given and any(folder.glob("*.ipynb"))):
            return folder
    where = f"in {given}" if given else "in this folder or its parents"
    raise LabkitError(f"no notebooks found {where}: change to the course's folder, or run labkit lab FOLDER")
