"""Options that print something about labkit itself: versions, and completion scripts for shells."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.metadata
from pathlib import Path
from typing import Any

from labkit import __version__
from labkit.errors import EngineError

SHELLS = ("bash", "fish", "powershell", "tcsh", "zsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--version`` and ``--completion``."""
    parser.add_argument("--version", action=_Version, help="print the versions of labkit, llama-cpp-python and llama.cpp")
    parser.add_argument(
        "--completion", action=_Completion, choices=SHELLS, help="print a completion script for this shell (docs/install.md)"
    )


class _Version(argparse.Action):
    """Print the versions without loading llama.cpp, so that it also works where that fails."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        try:
            engine = importlib.metadata.version("llama-cpp-python")
        except importlib.metadata.PackageNotFoundError:
            engine = "not installed"
        print(f"labkit {__version__}\nllama-cpp-python {engine}\nllama.cpp {_llamacpp_version()}")
        parser.exit()


def _llamacpp_version() -> str:
    """Return llama.cpp's commit and ggml's version, from the one library that depends on no other and on no CPU feature."""
    from labkit.system import check_engine

    with contextlib.suppress(EngineError):
        for path in sorted(check_engine().glob("*ggml-base*")):
            with contextlib.suppress(OSError, AttributeError):
                library = ctypes.CDLL(str(path))
                commit, version = library["ggml_commit"], library["ggml_version"]
                commit.restype = version.restype = ctypes.c_char_p
                return f"{commit().decode()} (ggml {version().decode()})"
    return "not found: labkit doctor says why"


class _Completion(argparse.Action):
    """Print shtab's script, with files completed where a command takes one."""

    def __call__(self, parser: argparse.ArgumentParser, _: Any, shell: Any, *__: Any) -> None:
        import shtab

        (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        for command in commands.choices.values():
            for action in command._actions:
                if action.type is Path or action.dest in ("model", "source", "target"):
                    action.complete = shtab.FILE
        print(shtab.complete(parser, shell))
        parser.exit()
