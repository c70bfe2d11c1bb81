"""Measure an installation: how many packages, and how many bytes, in a fresh environment.

Run ``uv run tools/install_size.py [EXTRA ...]``; without an extra it is the base installation. llama-cpp-python is built if
uv has no build of it in its cache; ``--engine PACKAGE_FOLDER`` counts an installed llama_cpp instead. The extra ``prebuilt``
needs no build.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Install into a temporary environment, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", metavar="EXTRA")
    parser.add_argument("--engine", type=Path, help="folder of an installed llama_cpp; llama-cpp-python is not built then")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labkit-size-") as folder:
        environment = Path(folder) / "venv"
        _uv("venv", "-q", "--python", sys.executable, str(environment))
        target = f"{ROOT}[{','.join(args.extras)}]" if args.extras else str(ROOT)
        pure = ["--config-settings-package", "llama-cpp-python:wheel.cmake=false", "--no-binary", "llama-cpp-python"]
        builds = not args.engine and "prebuilt" not in args.extras
        options = ["-c", str(ROOT / "constraints.txt"), "--link-mode=copy", *([] if builds else pure)]
        place = ROOT if builds else Path(folder)  # in ROOT, uv uses its settings for building llama.cpp
        _uv("pip", "install", "-q", "--python", str(environment), *options, target, folder=place)
        site = next(environment.glob("[Ll]ib/**/site-packages"))
        packages = len(list(site.glob("*.dist-info")))
        n_bytes = _size(site) + (_size(args.engine / "lib") if args.engine else 0)
    print(f"{packages} packages, {n_bytes / 1e6:.0f} MB{' with ' + ', '.join(args.extras) if args.extras else ''}")


def _uv(*arguments: str, folder: Path = ROOT) -> None:
    subprocess.run(["uv", *arguments], cwd=folder, check=True)  # noqa: S607


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


if __name__ == "__main__":
    main()
