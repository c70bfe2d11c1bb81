"""Load llama.cpp and compute with it: the script that `labkit.system.engine_library` starts for an unknown engine.

It reads one line of JSON and writes one: what is wrong, or nothing. A crash ends only this child.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
from typing import Any

_F32, _TYPES = 0, (0, 1, 2, 8, 12, 14)  # F32, F16, Q4_0, Q8_0, Q4_K, Q6_K
_UNWRITTEN = b"\xa5"


def main() -> None:
    """Try the engine."""
    sys.path[:] = json.loads(sys.stdin.buffer.readline())["path"]
    try:
        import llama_cpp

        fault = _wrong_layout(llama_cpp) or _wrong_result(llama_cpp)
    except Exception as error:  # ctypes and llama-cpp-python raise many types
        fault = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps({"fault": fault}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # skip freeing, which is not needed at the end of the process


def _wrong_layout(llama_cpp: Any) -> str:
    """Compare the sizes of the parameters' structures with what llama.cpp writes.

    An x86-64 function that returns a large structure writes it to an address that it gets as a hidden first argument. Other
    processors pass the address in a register that ctypes cannot set; there nothing is compared.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ""
    bindings = llama_cpp.llama_cpp
    for name in ("llama_model", "llama_context", "llama_model_quantize"):
        structure = getattr(bindings, f"{name}_params")
        function = bindings._lib[f"{name}_default_params"]
        default = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(ctypes.cast(function, ctypes.c_void_p).value or 0)
        buffer = ctypes.create_string_buffer(_UNWRITTEN * 4096, 4096)
        default(buffer)
        size = -(-len(buffer.raw.rstrip(_UNWRITTEN)) // 8) * 8
        if size != ctypes.sizeof(structure):
            return (
                "its libraries and llama-cpp-python are not of the same version: "
                f"{name}_params has {size} bytes instead of {ctypes.sizeof(structure)}"
            )
    return ""


def _wrong_result(llama_cpp: Any) -> str:
    """Multiply matrices of common types with ones: a processor without the instructions ends this process here."""
    from labkit.system.ggml import CPU, InitParams, computing_functions

    silence = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    c = computing_functions(llama_cpp)
    device = c["ggml_backend_dev_by_type"](CPU)
    backend = c["ggml_backend_dev_init"](device, None) if device else None
    if not backend:
        return "it has no CPU backend"
    context = c["ggml_init"](InitParams(1 << 20, None, True))
    graph = c["ggml_new_graph_custom"](context, 256, False)
    weights = [c["ggml_new_tensor_2d"](context, kind, 256, 32) for kind in _TYPES]
    column = c["ggml_new_tensor_2d"](context, _F32, 256, 2)
    for matrix in weights:
        c["ggml_build_forward_expand"](graph, c["ggml_mul_mat"](context, matrix, c["ggml_rms_norm"](context, column, 1e-5)))
    c["ggml_backend_alloc_ctx_tensors_from_buft"](context, c["ggml_backend_dev_buffer_type"](device))
    for tensor in (*weights, column):
        n_bytes = c["ggml_nbytes"](tensor)
        c["ggml_backend_tensor_set"](tensor, bytes(n_bytes), 0, n_bytes)
    status = c["ggml_backend_graph_compute"](backend, graph)
    return "" if status == 0 else f"it cannot compute on this CPU (status {status})"


if __name__ == "__main__":
    main()
