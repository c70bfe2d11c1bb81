"""Run a helper script in a subprocess: one line of JSON in, one line of JSON out; a crash stays contained."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError

if TYPE_CHECKING:
    import queue


class ChildEndedError(Exception):
    """The process ended without an answer; the message says how ("signal 11", "signal 6, GGML_ASSERT(…) failed")."""


def script_command(script: Path) -> list[str]:
    """Return the command that runs a script in a separate Python process."""
    return [sys.executable, "-I", "-X", "utf8", str(script)]


def request_line(request: Mapping[str, Any]) -> bytes:
    """Return a request as a script reads it: JSON in one line, with this process's ``sys.path`` as ``path``."""
    path = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100 - "" is this folder
    return json.dumps({**request, "path": path}).encode("ascii") + b"\n"


def queue_lines(stream: Any, lines: queue.SimpleQueue[bytes]) -> None:
    """Put each line of a child's output in a queue, and ``b""`` at its end; run this in a thread."""
    with contextlib.suppress(OSError, ValueError):  # closed by this side
        for line in stream:
            lines.put(line)
    lines.put(b"")


@contextlib.contextmanager
def explain(what: str, error: type[LabkitError], hint: str, *, died: str = "") -> Iterator[None]:
    """Convert the errors of `ask_child` to one line: what did not work, and what to do; ``died`` if the process died."""
    import subprocess  # every load imports this file, and few start a process

    try:
        yield
    except subprocess.TimeoutExpired as expired:
        raise error(f"{what} exceeded {expired.timeout:g} s and was stopped: {hint}") from None
    except OSError as failed:
        raise error(f"the process for {what} could not be started ({failed}): {hint}") from failed
    except ChildEndedError as ended:
        raise error(f"{what} aborted its process ({ended}): {died or hint}") from None


def ask_child(script: Path, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """Start a script, send it a request, and return its answer: its last line of output.

    An `OSError` means that it could not be started, a `subprocess.TimeoutExpired` that it exceeded the limit.
    """
    import subprocess

    child = subprocess.run(
        script_command(script), input=request_line(request), capture_output=True, timeout=limit_s, check=False
    )
    try:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        code = child.returncode
        asserted = re.search(r"GGML_ASSERT\(.*\) failed", child.stderr.decode("utf-8", "replace"))
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        raise ChildEndedError(f"{how}, {asserted[0][:200]}" if asserted else how) from None
    return answer
