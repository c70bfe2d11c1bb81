"""Measure the size and structure of labkit.

    python tools/measure_house.py

Prints lines and files per folder, import cycles, the longest files and functions, and the labkit modules that a fresh
process imports to load a model and generate text.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "labkit"
_RUN = """
import sys, labkit
with labkit.load_model(n_ctx=256) as model:
    labkit.generate_text(model, "1, 2, 3,", max_tokens=2, temperature=0)
print(*sorted(name for name in sys.modules if name.split(".")[0] == "labkit"))
"""


def import_graph() -> dict[str, set[str]]:
    """Return for each module of labkit the labkit modules that it imports, at the top of its file or in functions."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: _imported(path, files) - {name} for name, path in files.items()}


def _imported(path: Path, files: Mapping[str, Path]) -> set[str]:
    """Return a file's imports: for a lazy package those of its stub, for labkit itself, which imports lazily, none."""
    if path.parent == PACKAGE and path.name == "__init__.py":
        return set()
    stub = path.with_suffix(".pyi")
    room = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse((stub if stub.exists() else path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.add(f"{room}.{node.module}")
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if name in files else node.module for name in inside}
    return names & files.keys()


def find_circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return groups of modules that import each other (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    circles: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        path.append(module)
        for other in sorted(graph[module]):
            if other not in number:
                visit(other)
            if other in path:
                low[module] = min(low[module], low[other])
        if low[module] == number[module]:
            circle = path[path.index(module) :]
            del path[path.index(module) :]
            if len(circle) > 1:
                circles.append(sorted(circle))

    for module in graph:
        if module not in number:
            visit(module)
    return circles


def _functions(path: Path) -> list[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [((node.end_lineno or 0) - node.body[_n_docstrings(node)].lineno + 1, node.name) for node in found]


def _n_docstrings(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return int(ast.get_docstring(node) is not None and len(node.body) > 1)


def main() -> None:
    """Print the report."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    by_folder: Counter[str] = Counter()
    n_files: Counter[str] = Counter()
    for path, count in lines.items():
        parts = path.relative_to(PACKAGE).parts
        folder = parts[0] if len(parts) > 1 else "(labkit itself)"
        by_folder[folder] += count
        n_files[folder] += 1
    for folder, count in sorted(by_folder.items()):
        print(f"{folder:20}{count:7,} lines {n_files[folder]:4} files")
    print(f"{'all':20}{sum(lines.values()):7,} lines {len(lines):4} files")
    circles = find_circles(import_graph())
    print(f"\n{len(circles)} import cycles", *(" -> ".join(circle) for circle in circles), sep="\n    ")
    for count, path in sorted(((count, path) for path, count in lines.items()), reverse=True)[:3]:
        print(f"long file: {count} lines, {path.relative_to(PACKAGE)}")
    functions = [(count, name, path) for path in lines for count, name in _functions(path)]
    for count, name, path in sorted(functions, key=lambda item: -item[0])[:3]:
        print(f"long function: {count} lines, {name} in {path.relative_to(PACKAGE)}")
    run = subprocess.run([sys.executable, "-c", _RUN], capture_output=True, text=True, check=True)
    modules = run.stdout.split("\n")[-2].split()
    print(f"load_model and generate_text import {len(modules)} modules of labkit:", *modules)


if __name__ == "__main__":
    main()
