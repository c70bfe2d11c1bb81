"""Open the course's notebooks in JupyterLab.

Run it in the folder of the course, or name the notebooks' folder. With --work you work in a copy of your own: without
solutions and outputs, made when FOLDER has no notebooks yet; what you wrote there stays.
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
    """Add this command's arguments."""
    parser.add_argument("folder", nargs="?", type=Path, help="the notebooks' folder (found by itself as a rule)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="open your own copy, with exercises to solve")
    parser.add_argument("--no-browser", action="store_true", help="print the address rather than open a browser")


def run(args: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    folder = own_copy(args.work, args.folder, out) if args.work else find_notebooks(args.folder)
    if find_spec("jupyterlab") is None:
        raise LabkitError("jupyterlab is not installed: pip install jupyterlab, then labkit lab")
    out.say(f"opening {folder} in JupyterLab; end it with Ctrl-C here")
    command = [sys.executable, "-m", "jupyterlab", str(folder)]
    return subprocess.call([*command, "--no-browser"] if args.no_browser else command)


def own_copy(place: Path, source: Path | None, out: Output) -> Path:
    """Return a student's own folder; the notebooks without solutions are put there unless it has some."""
    from labkit.course.release import release_course

    if not any(place.glob("*.ipynb")):
        result = release_course(find_notebooks(source), place)
        out.say(f"{len(result.notebooks)} notebooks without solutions are in {place} now")
    return place


def find_notebooks(given: Path | None) -> Path:
    """Return the folder with the course: the one given, or ``notebooks`` here, above, or beside the package.

    Raises
    ------
    LabkitError
        When none of them holds the course.
    """
    beside = Path(__file__).resolve().parents[2]
    candidates = [given] if given else [folder / "notebooks" for folder in (Path.cwd(), *Path.cwd().parents, beside)]
    for folder in candidates:
        if any(folder.glob("00_*.ipynb")) or (given and any(folder.glob("*.ipynb"))):
            return folder
    where = f"in {given}" if given else "here or above"
    raise LabkitError(f"found no notebooks {where}: go to the course's folder, or run labkit lab FOLDER")
