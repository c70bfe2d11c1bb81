"""GGUF's header as bytes: magic and version, keys with their values, tensor table.

References
----------
The format: ggml ``docs/gguf.md``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from labkit.errors import ArgumentTypeError

ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9  # gguf_metadata_value_type


def padding(n_bytes: int) -> int:
    """Return the number of zero bytes after ``n_bytes`` up to the next aligned offset."""
    return -n_bytes % ALIGNMENT


def header_bytes(keys: Mapping[str, Any], tensors: Iterable[tuple[str, tuple[int, ...], int, int]]) -> bytes:
    """Return everything before the tensors' data, padded; whole numbers become uint32, floats float32, arrays int32.

    A tensor is its name, its shape (row length first), its type's number and its offset from the start of the data.
    """
    table = [_tensor(*tensor) for tensor in tensors]
    pairs = [_string(name) + _value(value) for name, value in keys.items()]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(table), len(pairs)) + b"".join(pairs) + b"".join(table)
    return head + bytes(padding(len(head)))


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, np.ndarray):
        return _array(_INT32, len(value), value.astype("<i4").tobytes())
    if isinstance(value, Sequence) and value and isinstance(value[0], str):
        return _array(_STRING, len(value), b"".join(map(_string, value)))
    if isinstance(value, Sequence):
        return _array(_UINT32, len(value), struct.pack(f"<{len(value)}I", *value))
    raise ArgumentTypeError(f"a GGUF value must be text, a number or a list of them here, not {type(value).__name__}")


def _array(kind: int, length: int, data: bytes) -> bytes:
    return struct.pack("<IIQ", _ARRAY, kind, length) + data


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
