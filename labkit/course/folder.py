"""Find the course's notebooks: in a clone, or in the installed package."""

from __future__ import annotations

from pathlib import Path

from labkit.errors import ArgumentError

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = _PACKAGE / "_course" / "notebooks"  # in the wheel; pyproject.toml puts it there


def find_notebooks(given: Path | None) -> Path:
    """Return the folder given, or ``notebooks`` here, in a parent folder, next to the package, or in the wheel.

    Raises
    ------
    ArgumentError
        If no folder has notebooks.
    """
    clones = [folder / "notebooks" for folder in (Path.cwd(), *Path.cwd().parents, _PACKAGE.parent)]
    for folder in [given] if given else [*clones, INSTALLED]:
        if any(folder.glob("00_*.ipynb")) or (given and any(folder.glob("*.ipynb"))):
            return folder
    where = f"in {given}" if given else "in this folder or its parents"
    raise ArgumentError(f"no notebooks found {where}: change to the course's folder, or run labkit lab FOLDER")
