"""The base installation sizes and runs models; whatever else is missing is named in one line."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from labkit.extras import EXTRA_OF
from tests.test_project import PROJECT
from tests.tiny_models import write_tiny_model

# Hides every installed package outside the base installation, as if it were not there.
HIDE = """
import importlib.machinery, sys
hidden, real = set(sys.argv.pop(1).split(",")), importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else real(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
"""


def _installed_with(requirements: list[str]) -> set[str]:
    """Return the distributions that these requirements install here, themselves included."""
    found: set[str] = set()
    queue = [Requirement(text) for text in requirements]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # another platform's, or an older environment
            queue += map(Requirement, importlib.metadata.requires(name) or ())
    return found


BASE = _installed_with(PROJECT["project"]["dependencies"])


def _hidden() -> str:
    modules = importlib.metadata.packages_distributions() if sys.version_info >= (3, 11) else dict.fromkeys(EXTRA_OF, ())
    outside = {name for name, owners in modules.items() if not BASE & set(map(canonicalize_name, owners))} - {
        "labkit",
        "llm",
    }
    assert set(EXTRA_OF) <= outside
    return ",".join(sorted(outside))


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HIDE + code, _hidden(), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, env={**os.environ, "COLUMNS": "200"})


def test_base_installation_is_small() -> None:
    """At most 35 packages are installed with labkit (tools/install_size.py measures their size)."""
    assert len(BASE | {"llama-cpp-lab"}) <= 35, sorted(BASE)


def test_base_installation_sizes_and_runs_models(tmp_path: Path) -> None:
    """Without the extras, every public name exists, and models are described, sized, loaded and run."""
    model = write_tiny_model(tmp_path / "tiny.gguf")
    done = _run(
        "import labkit\n"
        "for name in labkit.__all__:\n"
        "    getattr(labkit, name)\n"
        "path = sys.argv[1]\n"
        "print(labkit.get_model_info(path).architecture, labkit.estimate_memory_usage(path).total_bytes > 0)\n"
        "with labkit.load_model(path, n_ctx=256) as model:\n"
        "    print(len(labkit.generate_text(model, 'a', max_tokens=3, temperature=0)) >= 0)\n",
        str(model),
    )
    assert (done.returncode, done.stdout.split()) == (0, ["llama", "True", "True"]), done.stderr


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("labkit.explore('memory', sys.argv[1])", "ipywidgets"),
        ("from labkit.plots import plot_memory; plot_memory(labkit.estimate_memory_usage(sys.argv[1]))", "matplotlib"),
        ("import labkit.course.release", "nbformat"),
        ("import labkit.grading.grade", "nbformat"),
        ("with labkit.load_model(sys.argv[1]) as model, labkit.serve_model(model): pass", "starlette"),
    ],
)
def test_function_names_the_missing_package(code: str, package: str, tmp_path: Path) -> None:
    """A function that needs an extra raises a LabkitError with the package and the command that installs it."""
    caught = "except labkit.LabkitError as error:\n    assert isinstance(error, ImportError)\n    print(error)"
    done = _run(f"import labkit\ntry:\n    {code}\n{caught}", str(write_tiny_model(tmp_path / "tiny.gguf")))
    expected = f'this needs {package}, which is not installed: pip install "llama-cpp-lab[{EXTRA_OF[package]}]"\n'
    assert (done.stdout, done.stderr) == (expected, "")


@pytest.mark.parametrize(
    "command",
    [["lab"], ["lab", "--work", "mine"], ["explore", "memory"], ["release", "--out", "out"], ["selftest-course"], ["tour"]],
    ids=" ".join,
)
def test_command_names_the_missing_package(command: list[str]) -> None:
    """A command that needs an extra, or the bundled model, ends with one line and exit code 1."""
    done = _run("import labkit.cli\nsys.exit(labkit.cli.main(sys.argv[1:]))", *command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "pip install" in done.stderr
