"""Lay out a model without allocating it: the script that `labkit.load_check.dry_run` starts.

It reads one line of JSON (the settings) and writes one (llama.cpp's log and this process's memory). On some files llama.cpp
aborts the process; that ends only this child.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    """Make the dry run requested in the first line of the input."""
    request = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = request["path"]
    os.environ["GGML_NO_BACKTRACE"] = "1"  # otherwise an abort starts a debugger
    if not request["measures"]:
        os.environ.update(dict.fromkeys(_GPUS, ""))  # a trial needs none, and starting one takes up to a second
    import llama_cpp

    if request["measures"]:
        importlib.import_module("labkit.engine.loading")  # a process that loads a model has imported it too
    from labkit.system import resident_bytes

    lines: list[str] = []
    errors: list[str] = []
    level_now = [_INFO]

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # llama_cpp ships no types
    def log(level: int, text: bytes, _user_data: Any) -> None:
        if level != _CONTINUES:
            level_now[0] = level
        if level_now[0] != _DEBUG:
            lines.append(text.decode("utf-8", "replace"))
        if level_now[0] == _ERROR:
            errors.append(lines[-1])

    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(os.fsencode(request["model"]), _model_params(llama_cpp, request))
    ctx = None
    for context in request["contexts"] if model else ():
        ctx = llama_cpp.llama_init_from_model(model, _context_params(llama_cpp, context))
    answer = {
        "log": "".join(lines),
        "error": "" if ctx else (errors or ["the engine gave no reason"])[0],
        "resident_after_bytes": resident_bytes(),
        "buffers": _breakdown(llama_cpp, ctx) if ctx else None,
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # skip freeing, which is slow and not needed at the end of the process


_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
_DEBUG, _INFO, _ERROR, _CONTINUES = 1, 2, 4, 5  # ggml_log_level


def _model_params(llama_cpp: Any, request: dict[str, Any]) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.no_alloc = True
    if hasattr(params, "load_mode"):  # mapping does not work without allocation
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    else:  # llama-cpp-python 0.3.34
        params.use_mmap = False
    params.n_gpu_layers = request["n_gpu_layers"]
    return params


def _context_params(llama_cpp: Any, context: dict[str, Any]) -> Any:
    params = llama_cpp.llama_context_default_params()
    for name, value in context.items():
        setattr(params, name, value)
    return params


class _Map(ctypes.Structure):
    """A ``std::map`` of GNU's C++ library: returned in memory, its root at 16 bytes."""

    _fields_ = (("head", ctypes.c_uint64 * 2), ("root", ctypes.c_void_p), ("rest", ctypes.c_uint64 * 3))


class _Node(ctypes.Structure):
    _fields_ = (
        ("colour", ctypes.c_uint64),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("type", ctypes.c_void_p),
        ("sizes", ctypes.c_size_t * 3),
    )


def _breakdown(llama_cpp: Any, ctx: Any) -> list[tuple[str, int, int, int]] | None:
    """Return each buffer type with the bytes of its weights, cache and graph; None where this build cannot report them."""
    library = llama_cpp.llama_cpp._lib
    ask = getattr(library, "_Z26llama_get_memory_breakdownPK13llama_context", None)
    if ask is None or not sys.platform.startswith("linux"):
        return None
    ask.restype, ask.argtypes = _Map, [ctypes.c_void_p]
    name = library.ggml_backend_buft_name
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    rows: list[tuple[str, int, int, int]] = []
    todo = [ask(ctx).root]
    while todo:
        address = todo.pop()
        if address:
            node = _Node.from_address(address)
            rows.append((name(node.type).decode(), *node.sizes))
            todo += [node.left, node.right]
    return rows


if __name__ == "__main__":
    main()
