"""Run the course's notebooks and store their outputs, without machine-specific and temporary parts.

::

    python tools/run_notebooks.py                       # all of notebooks/
    python tools/run_notebooks.py notebooks/00_start_here.ipynb

A stored widget view refers to a widget that no longer exists, so JupyterLab would display an error: views are dropped, plain
text and HTML are kept. Progress bars, time stamps and the Python version are dropped, too.
If an output has a path of this machine, the script stops before writing the notebook.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
TIMEOUT_S = 120


def main(arguments: list[str]) -> int:
    """Run the given notebooks, or all; return the exit status."""
    os.environ.pop("LABKIT_MODEL", None)  # the stored outputs are for the bundled model
    for path in map(Path, arguments) if arguments else sorted(NOTEBOOKS.glob("*.ipynb")):
        started_s = time.perf_counter()
        notebook = run(path)
        leaks = find_leaks(notebook)
        if leaks:
            print(f"{path.name}: not written, remove from its outputs: {', '.join(leaks)}", file=sys.stderr)
            return 1
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - started_s:.1f} s, {path.stat().st_size / 1024:.0f} KiB")
    return 0


def run(path: Path) -> Any:
    """Execute a notebook from top to bottom and return it with cleaned outputs."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [clean(output) for output in cell.outputs if not is_progress(output)]
    nbformat.validate(notebook)
    return notebook


def is_progress(output: Any) -> bool:
    """Return whether an output is a progress bar: in notebooks tqdm uses a bare widget, elsewhere stderr."""
    data = output.get("data", {})
    return (WIDGET_VIEW in data and "text/html" not in data) or (is_stderr(output) and "%|" in output.text)


def is_stderr(output: Any) -> bool:
    """Return whether an output went to stderr: a warning that readers would get, too."""
    return bool(output.get("name") == "stderr")


def clean(output: Any) -> Any:
    """Drop an output's widget view; keep its text and HTML."""
    output.get("data", {}).pop(WIDGET_VIEW, None)
    return output


def find_leaks(notebook: Any) -> list[str]:
    """Return what the outputs must not contain: this machine's folders, name and user, and anything on stderr."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", json.dumps(outputs))  # base64 could contain any name by chance
    names = {str(Path.home()), str(NOTEBOOKS.parent), sys.prefix, platform.node(), getpass.getuser()} - {"root"}
    found = [name for name in names if name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    return sorted(found) + [f"stderr: {output.text.strip()}" for output in outputs if is_stderr(output)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
