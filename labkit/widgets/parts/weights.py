"""The weights of a tensor: read from the file when needed, decoded, and requantized."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from labkit.errors import ArgumentError, EngineError
from labkit.extras import needs_extra
from labkit.gguf_file import Header, TensorInfo
from labkit.gguf_file.formats import tensor_type
from labkit.gguf_file.source import LocalSource
from labkit.quantize import CODECS
from labkit.quantize.blocks import quantize_rows
from labkit.system import load_engine

Floats = npt.NDArray[np.float32]

CHUNK = 256  # a whole number of blocks of every type
TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K")
"""Types to compare: llama.cpp needs no importance matrix for them, and at most 5 ms for 65,536 weights."""
_MAX_SAMPLE, _RUNS = 1 << 16, 64


@dataclasses.dataclass(frozen=True)
class Loss:
    """The error of quantized weights: root mean square and worst."""

    rms: float
    worst: float
    relative: float  # ``rms`` as a fraction of the weights' root mean square


@functools.cache
def can_decode(name: str) -> bool:
    """Return whether `decode` supports a tensor type."""
    try:
        decode(name, np.zeros(tensor_type(name).block_bytes, np.uint8))
    except (KeyError, NotImplementedError):  # a type newer than the gguf package, or integers
        return False
    return True


def decode(name: str, data: npt.NDArray[np.uint8]) -> Floats:
    """Decode the bytes of whole blocks, both arrays one-dimensional; with labkit's codec for the types of `CODECS`."""
    if name in CODECS:
        return CODECS[name].decode(data)
    with needs_extra():
        from gguf import GGMLQuantizationType, quants  # importing it takes 0.25 s, and is rarely needed

    with np.errstate(all="ignore"):
        weights: Any = quants.dequantize(data, GGMLQuantizationType[name])
    return np.asarray(weights, np.float32)


def requantize(name: str, weights: Floats) -> Floats:
    """Quantize weights, a multiple of `CHUNK`, and decode them again; refuse NaN and infinity.

    llama.cpp quantizes them, or where it cannot be loaded, the gguf package, which knows half of `TYPES`.
    """
    rows = weights.reshape(-1, CHUNK)
    data = quantize_rows(name, rows) if _has_engine() else _quantize_in_python(name, rows)
    found = decode(name, data.reshape(-1))
    if not np.isfinite(found).all():
        raise ArgumentError(f"some of these weights are too large for {name}'s scales: choose another tensor or type")
    return found


@functools.cache
def _has_engine() -> bool:
    try:
        load_engine()
    except EngineError:
        return False
    return True


def _quantize_in_python(name: str, rows: Floats) -> npt.NDArray[np.uint8]:
    from gguf import GGMLQuantizationType, quants

    try:
        data: npt.NDArray[np.uint8] = quants.quantize(rows, GGMLQuantizationType[name])
    except NotImplementedError:
        raise ArgumentError(
            f"{name} needs llama.cpp, which cannot be loaded here (see labkit doctor): choose a type ending in _0 or _1"
        ) from None
    return data


def loss(before: Floats, after: Floats) -> Loss:
    """Return the error of weights after quantization.

    Examples
    --------
    >>> found = loss(np.float32([6, -8]), np.float32([7, -7]))
    >>> f"{found.rms:.3f} {found.worst:.3f} {found.relative:.3f}"
    '1.000 1.000 0.141'
    """
    true = before.astype(np.float64)
    error = after - true
    size, rms = (float(np.sqrt(np.square(array).mean())) for array in (true, error))
    return Loss(rms, float(np.abs(error).max()), rms / size if size else 0.0)


def losses(weights: Floats) -> dict[str, Loss]:
    """Return the error of each of `TYPES`; a type that cannot represent the weights is left out."""
    found = {}
    for name in TYPES:
        with contextlib.suppress(ArgumentError):
            found[name] = loss(weights, requantize(name, weights))
    return found


def read_bytes(header: Header, tensor: TensorInfo, first: int, n_bytes: int) -> npt.NDArray[np.uint8]:
    """Read some of a tensor's bytes from the file."""
    if not header.paths:
        raise ArgumentError("only the header was downloaded, the weights are on a server: download the file first")
    data = LocalSource(header.paths[tensor.part]).read(tensor.offset + first, n_bytes)
    return np.frombuffer(data, np.uint8)


def read_weights(header: Header, tensor: TensorInfo, first: int, count: int) -> Floats:
    """Read and decode weights; ``first`` and ``count`` are whole blocks."""
    kind = tensor.type
    return decode(kind.name, read_bytes(header, tensor, kind.row_bytes(first), kind.row_bytes(count)))


def sample(header: Header, tensor: TensorInfo) -> Floats:
    """Read all weights of a tensor, or 65,536 in 64 evenly spaced runs of 1,024."""
    chunks = tensor.n_elements // CHUNK
    if chunks * CHUNK <= _MAX_SAMPLE:
        return read_weights(header, tensor, 0, chunks * CHUNK)
    run = _MAX_SAMPLE // _RUNS
    starts = np.linspace(0, chunks - run // CHUNK, _RUNS).astype(int) * CHUNK
    return np.concatenate([read_weights(header, tensor, int(start), run) for start in starts])
