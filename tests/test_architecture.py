"""Imports point one way, and importing labkit stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "labkit"

# A room may import from the rooms before it, and from those on its own line.
LEVELS = (
    {"errors", "records", "units"},
    {"children", "checks", "cache", "output_files", "progress", "system", "sampling", "course", "models"},
    {"gguf_file"},
    {"kv_cache", "model_info", "quantize", "grammar", "chat_template", "devices", "grading"},
    {"engine", "ghost", "memory"},
    {"batch", "lint", "quality", "roofline"},
    {"benchmark", "tuning"},
    {"milestone"},
    {"plots"},
    {"widgets"},
    {"conformance"},
    {"cli", "__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# A record may draw itself: its plot() opens the room of pictures when it is called, and never before.
DRAWS = {"benchmark": {"plots"}, "milestone": {"plots"}}
HOMES = {
    "llama_cpp": {"batch", "benchmark", "chat_template", "devices", "engine", "roofline", "memory", "system", "quantize"},
    "matplotlib": {"plots", "course"},
    "ipywidgets": {"widgets", "course"},
}


def _rooms() -> dict[Path, str]:
    return {
        path: path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


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


@pytest.mark.parametrize(("path", "room"), _rooms().items(), ids=lambda value: str(getattr(value, "stem", value)))
def test_imports_point_one_way(path: Path, room: str) -> None:
    """A room imports only from rooms before it or beside it."""
    assert room in LEVEL, f"{room} stands in no level: give it one in this test, and say so in CONTRIBUTING.md"
    inside = {name.split(".")[1] for name in _imports(path) if name.startswith("labkit.")}
    wrong = {other for other in inside if LEVEL.get(other, 99) > LEVEL[room]} - DRAWS.get(room, set())
    assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}, which come after it"


def test_only_plot_opens_the_room_of_pictures() -> None:
    """Where a room may draw, nothing but a method named plot imports a room that comes after."""
    for path, room in _rooms().items():
        for rooms in DRAWS.get(room, ()):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            drawing = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "plot"]
            allowed = {id(node) for function in drawing for node in ast.walk(function)}
            imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and id(node) not in allowed]
            assert all(not str(node.module).startswith(f"labkit.{rooms}") for node in imports), path


@pytest.mark.parametrize(("path", "room"), _rooms().items(), ids=lambda value: str(getattr(value, "stem", value)))
def test_heavy_libraries_stay_in_their_rooms(path: Path, room: str) -> None:
    """llama_cpp, matplotlib and ipywidgets are imported in the rooms that are named for it alone."""
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
    """Each name that labkit promises can be reached and is listed by dir()."""
    import labkit

    for name in labkit.__all__:
        assert getattr(labkit, name) is not None
        assert name in dir(labkit)
