"""Open the explorers as a page in the browser, without a notebook."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from labkit.cli.output import Output
from labkit.extras import missing
from labkit.models import course_model, resolve_model
from labkit.system import check_engine
from labkit.widgets import EXPLORERS, READ_FILES

# Voilà's own template loads Font Awesome's icons from a CDN; on a network that hangs, the page would hang too
_TEMPLATE = """\
{%- extends 'voila/templates/lab/index.html.j2' -%}
{%- block notebook_css -%}
{%- set parts = super().split('<link rel="stylesheet" href="https://') -%}
{{ parts[0] }}{% for part in parts[1:] %}{{ part.split('>', 1)[1] }}{% endfor %}
{%- endblock notebook_css -%}
"""
HELP = "open the explorers as a page in the browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", choices=tuple(EXPLORERS), metavar="NAME", help=f"one of {', '.join(EXPLORERS)}; default: all"
    )
    parser.add_argument("--model", help="a GGUF file or a name from `labkit models`; default: the course's model")
    parser.add_argument("--port", type=int, default=8866, help="port on 127.0.0.1 (8866); 0: any free one")
    parser.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.devices.endpoints import free_port, parse_endpoint

    if not _is_installed("voila"):
        raise missing("voila")
    model = resolve_model(args.model) if args.model else course_model()
    names = [args.name] if args.name else list(EXPLORERS)
    if not set(names) <= READ_FILES:
        check_engine()
    # if the port is in use, Voilà would silently use another one
    port = free_port(parse_endpoint(f"127.0.0.1:{args.port}", name="--port", least_port=0))
    out.say(f"opening http://127.0.0.1:{port}; stop it with Ctrl-C")
    with tempfile.TemporaryDirectory(prefix="labkit-explore-", ignore_cleanup_errors=True) as folder:
        page = _write_page(Path(folder), names, model)
        command = [sys.executable, "-m", "voila", str(page), "--port", str(port), "--Voila.ip=127.0.0.1"]
        # Voilà's own request to end the kernel of a closed page is refused: a kernel without a page ends within 20 s
        command += [
            f"--MappingKernelManager.cull_{name}={seconds}" for name, seconds in (("interval", 5), ("idle_timeout", 15))
        ]
        command += ["--template=labkit", *(["--no-browser"] if args.no_browser else [])]
        places = [folder, *filter(None, [os.environ.get("JUPYTER_PATH")])]
        settings = {"PYTHONUTF8": "1", "JUPYTER_PATH": os.pathsep.join(places)}
        return subprocess.call(command, cwd=folder, env={**os.environ, **settings})


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # an entry of sys.modules that is not a module
        return False


def _write_page(folder: Path, names: list[str], model: Path) -> Path:
    """Write a Voilà template that loads everything from this machine, and the notebook behind the page; return its path.

    The notebook has one cell that loads the model if an explorer computes with it, and one per explorer.
    """
    import nbformat as untyped

    nbformat: Any = untyped
    template = folder / "voila" / "templates" / "labkit"
    template.mkdir(parents=True)
    (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
    (template / "index.html.j2").write_text(_TEMPLATE, encoding="utf-8")
    load = f"{str(model)!r}" if set(names) <= READ_FILES else f"labkit.load_model({str(model)!r}, n_ctx=2048)"
    cells = [f"import labkit\nmodel = {load}"]
    cells += [f"labkit.explore({name!r}, model)" for name in names]
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["title"] = "labkit explore"
    nbformat.write(notebook, folder / "explore.ipynb")
    return folder / "explore.ipynb"
