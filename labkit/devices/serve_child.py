"""Run llama.cpp's RPC server in a subprocess: the script that `labkit.devices.serve` starts.

It reads one line of JSON, answers with one that describes the device, and serves until its input ends, because the parent is
gone. Later errors are lines of text on its output.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any, BinaryIO

_CPU, _GPU, _IGPU = 0, 1, 2  # enum ggml_backend_dev_type


def main() -> None:
    """Serve as requested in the first line of the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops this process
    requests = sys.stdin.buffer
    request = json.loads(requests.readline())
    sys.path[:] = request["path"]
    threading.Thread(target=_end_with_parent, args=(requests,), daemon=True).start()
    import llama_cpp

    from labkit.system import engine_build
    from labkit.system.build import ggml_function

    engine_build()  # loads the backends, where they are separate libraries
    log = llama_cpp.llama_log_callback(lambda level, text, _: _write(level, text))
    llama_cpp.llama_log_set(log, None)
    by_type = ggml_function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)
    handle = by_type(_GPU) or by_type(_IGPU) or by_type(_CPU)
    kind = ggml_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(handle)
    name = ggml_function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)(handle)
    answer = {
        "kind": {_CPU: "CPU", _GPU: "GPU", _IGPU: "IGPU"}[kind],
        "description": name.decode("utf-8", "replace").strip(),
    }
    print(json.dumps(answer), flush=True)
    _serve(request["endpoint"].encode(), request["n_threads"], handle)
    os._exit(1)  # the server returns only when it cannot serve


def _serve(endpoint: bytes, n_threads: int, handle: int) -> None:
    from labkit.system.build import rpc_function

    start = rpc_function(
        "ggml_backend_rpc_start_server", None,
        ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p),
    )  # fmt: skip
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # drop its banner and connection messages; errors go to stderr
    start(endpoint, None, n_threads, 1, (ctypes.c_void_p * 1)(handle))


def _write(level: int, text: Any) -> None:
    if level >= 4:  # GGML_LOG_LEVEL_ERROR
        os.write(2, text)


def _end_with_parent(requests: BinaryIO) -> None:
    while requests.read(1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
