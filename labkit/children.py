"""Run a helper script in a subprocess: one line of JSON in, one line of JSON out; a crash stays contained."""

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
    """The process ended without an answer; the message says how ("signal 11", "exit status 1")."""


def ask_child(script: Path, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """Start a script, send it a request, and return its answer.

    Parameters
    ----------
    script : Path
        The script reads one line of input (its ``path`` is this process's ``sys.path``); its last line of output is the
        answer.
    request : mapping
        A value for ``json.dumps``.
    limit_s : float
        Time limit of the process, seconds.

    Raises
    ------
    ChildEndedError
        The process ended without an answer.
    subprocess.TimeoutExpired
        It exceeded the time limit.
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
