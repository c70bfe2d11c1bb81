"""Run the quantizer's process: start it, follow its log, stop it."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.children import queue_lines, request_line, script_command
from labkit.errors import QuantizationError
from labkit.progress import Progress

_CHILD = Path(__file__).with_name("child.py")
_STEP = re.compile(r"\[ *(\d+)/ *(\d+)\]")
_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR


def run_quantizer(request: Mapping[str, Any], report: Progress) -> str:
    """Quantize in a child process and return llama.cpp's log."""
    process = _start()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    reader = threading.Thread(target=queue_lines, args=(process.stdout, lines), name="labkit-quantize", daemon=True)
    reader.start()
    try:
        process.stdin.write(request_line(request))  # type: ignore[union-attr]  # stdin=PIPE
        process.stdin.flush()  # type: ignore[union-attr]  # likewise
        return _follow(process, lines, report)
    finally:  # also on Ctrl-C
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]  # stdin=PIPE
        reader.join(5)
        process.stdout.close()  # type: ignore[union-attr]  # stdout=PIPE


def _start() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            script_command(_CHILD), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise QuantizationError(f"the quantizer's process could not be started ({error}): nothing was written") from error


def _follow(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes], report: Progress) -> str:
    log: list[str] = []
    errors: list[str] = []
    while True:
        try:
            line = lines.get(timeout=0.2)  # short, so that Ctrl-C works on Windows too
        except queue.Empty:
            continue
        message: dict[str, Any] = json.loads(line) if line else {"status": None}
        if "status" in message:
            break
        log.append(message["log"])
        if message["level"] == _ERROR_LEVEL:
            errors.append(message["log"])
        step = _STEP.match(message["log"])
        if step:
            report(int(step[1]), int(step[2]))
    if message["status"] == 0:
        return "".join(log)
    reason = " ".join("".join(errors).replace("=", "").split())
    if "iostream" in reason:
        reason += "; is the disk full?"
    if message["status"] is None:
        reason = f"its process ended with {process.wait()} {reason}".strip()
    raise QuantizationError(f"llama.cpp could not quantize the model ({reason or 'it gave no reason'}): nothing was written")
