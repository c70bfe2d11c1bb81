"""Imports point one way and never in a circle, and importing labkit stays cheap."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tools.measure_house import PACKAGE, find_circles, import_graph

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# One level per folder (or file next to the folders): each may import from those after it, and from itself.
LEVELS = (
    "__main__", "cli",
    "milestone", "widgets", "grading", "course", "conformance",
    "serve", "benchmark", "batch", "quality", "tuning", "memory", "roofline",
    "chat", "second_context", "engine", "load_check", "thread_control", "devices",
    "grammar", "chat_template",
    "tuned_settings", "ghost", "model_info", "kv_cache", "quantize", "gguf_file", "models", "system", "plots",
    "sampling",
    "records", "tables", "output_files", "units", "progress", "cache", "children", "checks", "extras", "prebuilt", "errors",
)  # fmt: skip
LEVEL = {room: -level for level, room in enumerate(LEVELS)}
HOMES = {
    "llama_cpp": {"engine", "load_check", "devices", "roofline", "memory", "system", "quantize"},
    "matplotlib": {"plots", "course"},
    "ipywidgets": {"widgets", "course"},
}
GRAPH = import_graph()


def _room(module: str) -> str:
    return module.split(".")[1]


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path.name}: imports are absolute"
            found.add(node.module)
    return found


@pytest.mark.parametrize("module", [module for module in GRAPH if module != "labkit"])
def test_imports_point_one_way(module: str) -> None:
    """A file imports only from its own folder and from those below it, also inside functions and for types alone."""
    room = _room(module)
    assert room in LEVEL, f"{room} has no level: add it to this test and to CONTRIBUTING.md"
    others = {_room(other) for other in GRAPH[module] if other != "labkit"}
    wrong = {other for other in others if LEVEL[other] > LEVEL[room]}
    assert not wrong, f"{module} imports {wrong}, which are above it"


def test_no_files_import_each_other_in_a_circle() -> None:
    """No chain of imports leads back to its file, including imports in functions and under TYPE_CHECKING."""
    assert find_circles(GRAPH) == []


def test_plots_knows_no_record() -> None:
    """Plots get their data as arguments: of labkit, they import only errors, extras and units."""
    rooms = {_room(other) for module in GRAPH if module.startswith("labkit.plots") for other in GRAPH[module]}
    assert rooms <= {"plots", "errors", "extras", "units"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    """llama_cpp, matplotlib and ipywidgets are imported only in the folders listed for them."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for library, homes in HOMES.items():
        if any(name.split(".")[0] == library for name in _imports(path)):
            assert room in homes, f"{path.relative_to(PACKAGE)} imports {library}"


def test_importing_labkit_loads_nothing_heavy() -> None:
    """A bare import brings neither the engine nor a plotting or widget library, nor NumPy."""
    code = (
        "import sys, labkit; print(sorted({'llama_cpp', 'matplotlib', 'ipywidgets', 'numpy', 'IPython'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    """Each public name of labkit is accessible and listed by dir()."""
    import labkit

    for name in labkit.__all__:
        assert getattr(labkit, name) is not None
        assert name in dir(labkit)


def test_help_of_every_record_describes_each_field() -> None:
    """Each dataclass that labkit or a room exports describes all its fields in the docstring, where help() shows them."""
    rooms = [PACKAGE, *(path.parent for path in PACKAGE.glob("*/__init__.py"))]
    modules = [importlib.import_module(".".join(room.relative_to(PACKAGE.parent).parts)) for room in rooms]
    exported = [getattr(module, name) for module in modules for name in getattr(module, "__all__", ())]
    records = {one for one in exported if isinstance(one, type) and dataclasses.is_dataclass(one)}
    missing = {one.__name__: fields for one in records if (fields := _undescribed(one))}
    assert len(records) > 40
    assert missing == {}


def _undescribed(record: type[DataclassInstance]) -> list[str]:
    """Return the fields of a dataclass without a line under Attributes or Parameters; "a, …, c" describes all between."""
    names = [field.name for field in dataclasses.fields(record)]
    _, _, section = re.split(r"(Attributes|Parameters)\n-+\n", f"{inspect.getdoc(record)}Attributes\n-\n")[:3]
    described: set[str] = set()
    for line in re.findall(r"^\S.*", section, re.MULTILINE):
        listed = line.split(" : ")[0].split(", ")
        if "…" in listed:
            listed = names[names.index(listed[0]) : names.index(listed[-1]) + 1]
        described.update(listed)
    return [name for name in names if name not in described]
