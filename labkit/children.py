"""Ask a program of labkit's own in a process of its own: a line of JSON in, a line of JSON out; its end is nobody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["ChildEndedError", "ask_child"]


class ChildEndedError(Exception):
    """The process ended without an answer; the text says how ("signal 11", "exit status 1")."""


def ask_child(script: Path, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """Start a program, tell it what is wanted, and return its answer.

    Parameters
    ----------
    script : Path
        It reads a line from its input, whose ``path`` is this process's ``sys.path``, and answers with its last line.
    request : mapping
        What ``json.dumps`` takes.
    limit_s : float
        After so many seconds the process is ended.

    Raises
    ------
    ChildEndedError
        It ended without an answer.
    subprocess.TimeoutExpired
        It took too long.
    OSError
        It could not be started.
    """
    path = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100 - "" is this folder
    line = json.dumps({**request, "path": path}).encode("ascii") + b"\n"
    command = [sys.executable, "-I", "-X", "utf8", str(script)]
    child = subprocess.run(command, input=line, capture_output=True, timeout=limit_s, check=False)
    try:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        code = child.returncode
        raise ChildEndedError(f"signal {-code}" if code < 0 else f"exit status {code}") from None
    return answer
