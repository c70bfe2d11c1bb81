"""Open the course's notebooks in JupyterLab.

Run it in the course's folder, or give the folder of the notebooks. With --work you work in your own copy, without
solutions and outputs. The copy is made if FOLDER has no notebooks yet; your work in it is kept. Without a clone of the
course you always work in a copy, in the folder llama-cpp-lab unless --work names another. The copy has the seven functions
of the lab, to be filled in, as src/llamacpp_inference.py; "uv run pytest tests/" in it checks them.

Options for Jupyter follow a "--": labkit lab --work mine -- --port=9000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from labkit.cli.output import Output
from labkit.extras import DISTRIBUTION, missing
from labkit.output_files import user_path
from labkit.units import counted

HELP = "open the course in JupyterLab"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, help="folder of the notebooks; usually found automatically")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="open your own copy, with exercises to solve")
    parser.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")
    parser.add_argument("--json", action="store_true", help="print JSON when JupyterLab is ready")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.course.folder import INSTALLED, find_notebooks

    course = find_notebooks(args.folder)
    folder = user_path(args.work) if args.work else Path(DISTRIBUTION) if course == INSTALLED else course
    if find_spec("jupyterlab") is None:
        raise missing("jupyterlab")
    if folder != course and not any(folder.glob("*.ipynb")):
        from labkit.conformance import lay_out_lab
        from labkit.course.release import release_course

        copied = release_course(course, folder).notebooks
        lay_out_lab(folder)
        out.say(f"copied {counted(len(copied), 'notebook')}, without solutions, to {folder}")
    command = [sys.executable, "-m", "jupyterlab", str(folder), "--log-level=WARN", "-y"]
    command += ["--no-browser"] if args.no_browser else []
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        out.say("running as root: JupyterLab gets --allow-root, and notebooks may change any file")
        command.append("--allow-root")
    return _serve([*command, *args.rest], folder, out)


def _serve(command: list[str], folder: Path, out: Output) -> int:
    """Run JupyterLab, print its address as soon as it listens, and return its exit code; Ctrl-C ends it, and its kernels."""
    from jupyter_core.paths import jupyter_runtime_dir

    def records() -> set[Path]:
        return set(Path(jupyter_runtime_dir()).glob("jpserver-*.json"))

    earlier = records()
    with subprocess.Popen(command) as server:
        try:
            while server.poll() is None and not (address := _address(records() - earlier, folder)):
                time.sleep(0.1)
            time.sleep(0.5)  # behind JupyterLab's own messages
            if server.poll() is None:
                out.say(f"JupyterLab with {folder} is at {address}; stop it with Ctrl-C")
                out.result({"url": address, "folder": str(folder.absolute()), "pid": server.pid})
                sys.stdout.flush()
            return server.wait()
        except KeyboardInterrupt:  # the terminal sends it to JupyterLab, too
            return server.wait()


def _address(records: set[Path], folder: Path) -> str:
    """Return the address of the server that shows this folder, by its own record; empty if there is none yet."""
    for path in records:
        with contextlib.suppress(OSError, ValueError, KeyError):  # half-written
            record = json.loads(path.read_text(encoding="utf-8"))
            if Path(record["root_dir"]).resolve() == folder.resolve():
                return f"{record['url']}lab?token={record['token']}"
    return ""
