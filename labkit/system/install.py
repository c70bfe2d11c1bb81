"""The command that installs a working llama.cpp on this machine: prebuilt where there is no compiler, else built here."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from labkit.system.library_file import this_machine

CMAKE_ARGS = (  # as in pyproject.toml and the README, which say why
    "-DGGML_RPC=ON -DGGML_OPENMP=OFF -DCMAKE_C_FLAGS_INIT=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS_INIT=-U__AMX_INT8__"
)
OLDEST, TOO_NEW = (0, 3, 34), (0, 4)  # versions of llama-cpp-python, as in pyproject.toml
WHEELS = "https://abetlen.github.io/llama-cpp-python/whl/"
_NAME = "llama-cpp-python"
_PREBUILT = {  # system, processor -> the folder of upstream's wheels
    ("linux", "x86-64"): "cpu", ("linux", "arm64"): "cpu", ("win32", "x86-64"): "cpu", ("darwin", "arm64"): "metal",
    ("darwin", "x86-64"): "cpu",
}  # fmt: skip
_COMPILERS = {  # package manager -> what it does to install a C++ compiler
    "apt-get": "sudo apt-get install g++", "dnf": "sudo dnf install gcc-c++", "apk": "sudo apk add g++ linux-headers",
    "pacman": "sudo pacman -S gcc", "zypper": "sudo zypper install gcc-c++",
}  # fmt: skip


def engine_command(*, for_this_processor: bool = False) -> str:
    """Return the command that installs a working llama.cpp here.

    A compiler builds one for exactly this processor, with every backend that labkit uses. Without one the command takes
    conda-forge's in a conda environment, or else upstream's wheel, which needs AVX2 on x86-64 and is of no use
    ``for_this_processor`` that could not run what was installed.
    """
    if _has_compiler():
        return rebuild_command()
    if (Path(sys.prefix) / "conda-meta").is_dir():
        return f"conda install --force-reinstall -c conda-forge {_wanted()}"
    wheels = _PREBUILT.get((sys.platform, this_machine()))
    if wheels is None or for_this_processor:
        return rebuild_command()
    return f"{_pip()} install --force-reinstall --only-binary {_NAME} --extra-index-url {WHEELS}{wheels} {_wanted()}"


def rebuild_command() -> str:
    """Return the command that builds llama.cpp on this machine, with the compiler's own installation if there is none."""
    if _pip() == "uv pip" and (Path(__file__).parents[2] / "pyproject.toml").is_file():  # a clone, with README's `uv run`
        build = f"uv sync --reinstall-package {_NAME}"
    else:
        build = f"{_pip()} install --force-reinstall --no-cache-dir --no-binary {_NAME} {_wanted()}"
        build = (
            f'$env:CMAKE_ARGS="{CMAKE_ARGS}"; {build}' if sys.platform == "win32" else f'CMAKE_ARGS="{CMAKE_ARGS}" {build}'
        )
    return build if _has_compiler() else f"install a C++ compiler ({_compiler_command()}), then: {build}"


def unset_command(variable: str) -> str:
    """Return the command that removes an environment variable."""
    return f"Remove-Item Env:{variable}" if sys.platform == "win32" else f"unset {variable}"


def version_text(version: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def _wanted() -> str:
    return f'"{_NAME}>={version_text(OLDEST)},<{version_text(TOO_NEW)}"'


@functools.lru_cache(maxsize=1)
def _pip() -> str:
    """Return how this environment installs packages: uv makes some without pip."""
    return "pip" if importlib.util.find_spec("pip") else "uv pip"


def _has_compiler() -> bool:
    if sys.platform == "darwin":  # c++ is always there, and asks to install the tools
        return any(Path(folder).is_dir() for folder in ("/Library/Developer/CommandLineTools", "/Applications/Xcode.app"))
    if sys.platform == "win32":  # Visual Studio is not in the PATH
        installer = Path(os.environ.get("PROGRAMFILES(X86)", "C:/Program Files (x86)")) / "Microsoft Visual Studio/Installer"
        return bool(shutil.which("cl")) or (installer / "vswhere.exe").is_file()
    return any(map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++")))


def _compiler_command() -> str:
    if sys.platform == "darwin":
        return "xcode-select --install"
    if sys.platform == "win32":
        return "winget install Microsoft.VisualStudio.2022.BuildTools, with its C++ workload"
    return next((command for tool, command in _COMPILERS.items() if shutil.which(tool)), "g++ or clang++")
