"""ggml's C functions, from the libraries that llama-cpp-python loads."""

from __future__ import annotations

import ctypes
from typing import Any

_P, _SIZE, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64, ctypes.c_float
CPU = 0  # ggml_backend_dev_type


class InitParams(ctypes.Structure):
    """``ggml_init_params``."""

    _fields_ = (("size", _SIZE), ("buffer", _P), ("no_alloc", ctypes.c_bool))


# For computing with ggml alone: the types of the result and of each argument.
_COMPUTING: dict[str, tuple[Any, ...]] = {
    "ggml_init": (_P, InitParams),
    "ggml_free": (None, _P),
    "ggml_new_tensor_2d": (_P, _P, _INT, _LONG, _LONG),
    "ggml_new_tensor_3d": (_P, _P, _INT, _LONG, _LONG, _LONG),
    "ggml_mul_mat": (_P, _P, _P, _P),
    "ggml_rms_norm": (_P, _P, _P, _FLOAT),
    "ggml_mul": (_P, _P, _P, _P),
    "ggml_add": (_P, _P, _P, _P),
    "ggml_soft_max_ext": (_P, _P, _P, _P, _FLOAT, _FLOAT),
    "ggml_flash_attn_ext": (_P, _P, _P, _P, _P, _P, _FLOAT, _FLOAT, _FLOAT),
    "ggml_new_graph_custom": (_P, _P, _SIZE, ctypes.c_bool),
    "ggml_build_forward_expand": (None, _P, _P),
    "ggml_nbytes": (_SIZE, _P),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_P, _P, _P),
    "ggml_backend_buffer_free": (None, _P),
    "ggml_backend_tensor_set": (None, _P, _P, _SIZE, _SIZE),
    "ggml_backend_graph_compute": (_INT, _P, _P),
    "ggml_backend_dev_by_type": (_P, _INT),
    "ggml_backend_dev_init": (_P, _P, ctypes.c_char_p),
    "ggml_backend_dev_backend_reg": (_P, _P),
    "ggml_backend_dev_buffer_type": (_P, _P),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, _P, _P),
    "ggml_backend_reg_get_proc_address": (_P, _P, ctypes.c_char_p),
}


def find_function(llama_cpp: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Find a function of ggml: through libllama on Linux and macOS, in the library that defines it on Windows.

    ``llama_cpp._ggml`` is no help: it ignores ``LLAMA_CPP_LIB_PATH``, and would load a second copy.
    """
    bindings = llama_cpp.llama_cpp
    try:
        function = bindings._lib[name]
    except AttributeError:
        try:
            function = bindings.load_shared_library("ggml", bindings._base_path)[name]
        except AttributeError:
            function = bindings.load_shared_library("ggml-base", bindings._base_path)[name]
    function.restype, function.argtypes = result, list(arguments)
    return function


def computing_functions(llama_cpp: Any) -> dict[str, Any]:
    """Return the functions for computing with ggml alone, by name."""
    return {name: find_function(llama_cpp, name, *types) for name, types in _COMPUTING.items()}
