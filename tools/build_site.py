"""Build the documentation site: README, guides, the executed notebooks, and a reference of labkit's public names.

``uv run --group docs python -m tools.build_site`` writes it to ``build/site``. The pages request nothing from other hosts.
``--serve`` then serves it on http://127.0.0.1:8000.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import importlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path

import lazy_loader

from labkit.cache import sha256
from labkit.cli import _parser
from labkit.gguf_file import read_header
from labkit.ghost.build import ghost_header
from labkit.models import bundled_model_path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "site"
PORT = 8000
PYODIDE = "pyodide@314.0.7"  # Python in the browser, from npm; it has no NumPy
PYODIDE_SHA256 = "66b7949e5a0cba2250b586d7e368bf12fb482800748d182c4618254b685ffaa0"
PYODIDE_FILES = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
# Examples of the page "Try it in your browser", besides the bundled model: name, and arguments of a ghost
EXAMPLES = {
    "Llama-3.2-1B, Q8_0": ("llama", "1B", "Q8_0"),
    "Llama-2-7B, Q4_K_M": ("llama", "7B", "Q4_K_M"),
    "Mixtral-8x7B, Q4_K_M": ("llama", "8x7B", "Q4_K_M"),
}
# The navigation: explicit pages first, then the rest of their folder.
CONTENTS = {
    "Course": ["notebooks/*"],
    "Guides": ["browser", "docs/install", "docs/online", "docs/cheat-sheet", "docs/glossary", "docs/explorers",
               "docs/reading", "docs/syllabus", "docs/instructors", "docs/exercises", "docs/*"],
    "Reference": ["reference/command-line", "reference/*"],
    "Project": ["CONTRIBUTING", "CHANGELOG", "SECURITY", "CODE_OF_CONDUCT"],
}  # fmt: skip
_PUBLIC = re.compile(r"^from \.(\w+) import (\w+) as \2$", re.MULTILINE)


def public_names() -> dict[str, list[str]]:
    """Return labkit's public names by the subpackage that each comes from."""
    rooms = defaultdict(list)
    for room, name in _PUBLIC.findall((ROOT / "labkit" / "__init__.pyi").read_text(encoding="utf-8")):
        rooms[room].append(name)
    return rooms


def stage(source: Path) -> None:
    """Copy what the site shows into one folder, and write the reference's pages there."""
    for folder in ("docs", "notebooks"):
        shutil.copytree(ROOT / folder, source / folder)
    shutil.copytree(ROOT / "tools" / "site", source, dirs_exist_ok=True)
    for file in [*(ROOT / f"{page}.md" for page in CONTENTS["Project"]), ROOT / "LICENSE", ROOT / "CITATION.cff"]:
        if file.exists():
            shutil.copy(file, source)
    for page in [*source.glob("*.md"), *source.glob("docs/*.md"), *source.glob("notebooks/*.ipynb")]:
        page.write_text(page.read_text(encoding="utf-8").replace("../README.md", "../index.md"), encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (source / "index.md").write_text(f"{readme}\n{_contents(source)}", encoding="utf-8")
    (source / "reference").mkdir()
    for room, names in public_names().items():
        (source / "reference" / f"{room}.rst").write_text(_reference(room, names), encoding="utf-8")
    (source / "reference" / "command-line.rst").write_text(_command_line(), encoding="utf-8")


def add_explorers(folder: Path) -> None:
    """Add what the explorers in the browser need: Python, labkit's modules, and the headers of the examples."""
    archive = fetch_pyodide()
    (folder / "pyodide").mkdir()
    with tarfile.open(archive) as packed:
        for name in PYODIDE_FILES:
            source = packed.extractfile(f"package/{name}")
            assert source is not None, name  # noqa: S101
            (folder / "pyodide" / name).write_bytes(source.read())
    with zipfile.ZipFile(folder / "labkit.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for package in (ROOT / "labkit", Path(lazy_loader.__file__).parent):
            for file in sorted(package.rglob("*")):  # data files, too
                if file.is_file() and file.suffix != ".pyc":
                    packed.write(file, file.relative_to(package.parent))
        packed.write(folder / "explorers.py", "explorers.py")
    (folder / "examples").mkdir()
    path = bundled_model_path()
    heads = {path.stem: (path.read_bytes()[: read_header(path).data_offset], path.stat().st_size)}
    heads |= {name: ghost_header(*arguments)[1:] for name, arguments in EXAMPLES.items()}
    examples = []
    for number, (name, (head, size)) in enumerate(heads.items()):
        (folder / "examples" / f"{number}.gguf").write_bytes(head)
        examples.append((name, f"examples/{number}.gguf", size))
    (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")


def fetch_pyodide() -> Path:
    """Return Pyodide's archive, fetched once from the npm registry."""
    archive = ROOT / "build" / f"{PYODIDE.replace('@', '-')}.tgz"
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("the site needs Pyodide from the npm registry: install npm (Node.js) and build again")
        archive.parent.mkdir(exist_ok=True)
        try:
            subprocess.run([npm, "pack", PYODIDE, "--silent"], cwd=archive.parent, check=True, stdout=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"the site needs Pyodide, which npm could not fetch (exit status {error.returncode})") from None
    if sha256(archive) != PYODIDE_SHA256:
        archive.unlink()
        raise SystemExit(f"npm's {PYODIDE} is not the archive that was tested: deleted, compare with PYODIDE_SHA256")
    return archive


def _contents(source: Path) -> str:
    """Return the navigation, as hidden tables of contents."""
    blocks = []
    for caption, pages in CONTENTS.items():
        there = [page for page in pages if "*" in page or page.startswith("reference") or (source / f"{page}.md").exists()]
        blocks.append(f"```{{toctree}}\n:caption: {caption}\n:hidden:\n:glob:\n\n" + "\n".join(there) + "\n```\n")
    return "\n".join(blocks)


def _reference(room: str, names: list[str]) -> str:
    """Return the page of one subpackage: what it is for, then each of its public names."""
    first = (importlib.import_module(f"labkit.{room}").__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    title = room.replace("_", " ").capitalize()
    lines = [title, "=" * len(title), "", first.split(": ", 1)[-1][:1].upper() + first.split(": ", 1)[-1][1:], ""]
    labkit = importlib.import_module("labkit")
    for name in sorted(names, key=lambda name: isinstance(getattr(labkit, name), type)):  # functions first
        thing = getattr(labkit, name)
        if not isinstance(thing, type):
            lines += [f".. auto{'function' if callable(thing) else 'data'}:: labkit.{name}", ""]
        elif issubclass(thing, BaseException):
            lines += [f".. autoexception:: labkit.{name}", "   :show-inheritance:", ""]
        else:
            lines += [f".. autoclass:: labkit.{name}", "   :members:", ""]
    return "\n".join(lines)


def _command_line() -> str:
    """Return the page of the commands: the help of each."""
    lines = ["Command line", "============", "", "Each command's own help: ``labkit COMMAND --help``.", ""]
    (commands,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, parser in commands.choices.items():
        lines += [f"labkit {name}", "-" * (len(name) + 7), "", ".. code-block:: text", ""]
        lines += [f"   {line}".rstrip() for line in parser.format_help().splitlines()] + [""]
    return "\n".join(lines)


def build(folder: Path) -> Path:
    """Build the site in a folder, and return the folder of its pages; a warning is an error."""
    from sphinx.cmd.build import build_main

    for part in ("source", "doctrees", "html"):
        shutil.rmtree(folder / part, ignore_errors=True)
    source = folder / "source"
    source.mkdir(parents=True)
    stage(source)
    add_explorers(source / "_static" / "browser")
    options = ["-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "doctrees")]
    if build_main([*options, str(source), str(folder / "html")]):
        raise SystemExit("the site was not built: see the warnings above")
    return folder / "html"


def main() -> None:
    """Build, and serve if requested."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--serve", action="store_true", help=f"serve the site on http://127.0.0.1:{PORT}")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER", help="where to write (default: build/site)")
    given = parser.parse_args()
    folder = build(given.out)
    print(folder)
    if given.serve:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        http.server.ThreadingHTTPServer(("127.0.0.1", PORT), handler).serve_forever()


if __name__ == "__main__":
    sys.exit(main())
