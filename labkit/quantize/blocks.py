"""Quantize rows of weights to blocks of any type, with ggml's quantizer."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from labkit.errors import ArgumentError
from labkit.gguf_file.formats import tensor_type
from labkit.system.build import ggml_function

NEEDS_IMPORTANCE = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
"""Types that llama.cpp makes only with an importance matrix (``tensor_requires_imatrix`` in ``src/llama-quant.cpp``)."""
_NEVER_STORED = frozenset({"Q8_1", "Q8_K", "F64", "I8", "I16", "I32", "I64"})


def quantize_rows(name: str, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Quantize weights of shape (rows, n), n a multiple of the type's block, to bytes of shape (rows, row bytes)."""
    kind = tensor_type(name)
    if kind.name in NEEDS_IMPORTANCE | _NEVER_STORED:
        raise ArgumentError(f"{kind.name} needs more than the weights: choose another type, such as Q4_K")
    if rows.ndim != 2 or rows.shape[1] % kind.block_size:
        raise ArgumentError(f"{kind.name} needs rows of a multiple of {kind.block_size} weights, not shape {rows.shape}")
    source = np.ascontiguousarray(rows, np.float32)
    if not np.isfinite(source).all():
        raise ArgumentError(f"{kind.name} needs finite weights, but some are NaN or infinite: replace them first")
    data = np.empty((len(source), kind.row_bytes(source.shape[1])), np.uint8)
    pointer, i64 = ctypes.c_void_p, ctypes.c_int64
    chunk = ggml_function("ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int, pointer, pointer, i64, i64, i64, pointer)
    if source.size:
        chunk(kind.id, source.ctypes.data, data.ctypes.data, 0, len(source), source.shape[1], None)
    return data
