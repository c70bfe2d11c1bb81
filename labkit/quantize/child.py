"""Run llama.cpp's quantizer in a subprocess: the script that `labkit.quantize.convert` starts.

It reads one line of JSON and writes llama.cpp's log as lines of JSON, then ``{"status": n}``. When its input ends, because
the parent is gone, it removes its output and exits.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO


def main() -> None:
    """Quantize as requested in the first line of the input."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    request = json.loads(requests.readline())
    sys.path[:] = request["path"]
    import llama_cpp

    # A relative ASCII name: llama.cpp opens its output with the system's encoding.
    os.chdir(request["folder"])
    threading.Thread(target=_end_with_parent, args=(requests, Path(request["output"])), daemon=True).start()

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # llama_cpp ships no types
    def log(level: int, text: bytes, _user_data: Any) -> None:
        _send(answers, level=level, log=text.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(log, None)
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = request["ftype"], request["n_threads"]
    settings.allow_requantize = True
    status = llama_cpp.llama_model_quantize(request["source"].encode(), request["output"].encode(), ctypes.byref(settings))
    _send(answers, status=status)
    os._exit(0)


def _send(answers: BinaryIO, **message: Any) -> None:
    answers.write(json.dumps(message).encode("ascii") + b"\n")
    answers.flush()


def _end_with_parent(requests: BinaryIO, output: Path) -> None:
    while requests.read(1):
        pass
    output.unlink(missing_ok=True)
    os._exit(1)


if __name__ == "__main__":
    main()
