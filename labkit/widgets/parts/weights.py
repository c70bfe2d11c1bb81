"""The weights of one tensor: read from the file when they are needed, decoded, and quantized again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from labkit.errors import ArgumentError
from labkit.gguf_file import Header, TensorInfo
from labkit.gguf_file.formats import tensor_type
from labkit.gguf_file.source import LocalSource
from labkit.quantize import CODECS
from labkit.quantize.blocks import quantize_rows

__all__ = [
    "CHUNK",
    "TYPES",
    "Loss",
    "can_decode",
    "decode",
    "loss",
    "losses",
    "read_bytes",
    "read_weights",
    "requantize",
    "sample",
]

Floats = npt.NDArray[np.float32]

CHUNK = 256  # a whole number of blocks of every type
TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K")
"""Types to compare: those that llama.cpp makes from weights alone, each of 65,536 weights in 5 ms or less."""
_MAX_SAMPLE, _RUNS = 1 << 16, 64


@dataclasses.dataclass(frozen=True)
class Loss:
    """How far weights are from what they were.

    Parameters
    ----------
    rms, worst : float
        Root mean square and largest difference.
    relative : float
        ``rms`` as a part of the weights' own root mean square.
    """

    rms: float
    worst: float
    relative: float


@functools.cache
def can_decode(name: str) -> bool:
    """Return whether `decode` knows a tensor type."""
    try:
        decode(name, np.zeros(tensor_type(name).block_bytes, np.uint8))
    except (KeyError, NotImplementedError):  # a type newer than the gguf package, or integers
        return False
    return True


def decode(name: str, data: npt.NDArray[np.uint8]) -> Floats:
    """Turn the bytes of whole blocks into weights, both of one dimension; a type of `CODECS` with labkit's own codec."""
    if name in CODECS:
        return CODECS[name].decode(data)
    from gguf import GGMLQuantizationType, quants  # a quarter of a second, which most students never need

    with np.errstate(all="ignore"):
        weights: Any = quants.dequantize(data, GGMLQuantizationType[name])
    return np.asarray(weights, np.float32)


def requantize(name: str, weights: Floats) -> Floats:
    """Return what a type makes of weights: quantized by llama.cpp, and decoded again.

    Parameters
    ----------
    name : str
        One of `TYPES`.
    weights : array of shape (n,)
        A multiple of `CHUNK`.

    Raises
    ------
    ArgumentError
        When a weight is NaN or infinite, before or after.
    """
    found = decode(name, quantize_rows(name, weights.reshape(-1, CHUNK)).reshape(-1))
    if not np.isfinite(found).all():
        raise ArgumentError(f"{name} cannot hold these weights: some are too large for its scales, choose another tensor")
    return found


def loss(before: Floats, after: Floats) -> Loss:
    """Compare weights with what became of them.

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
    """Return what each of `TYPES` makes of weights; a type that cannot hold them is left out."""
    found = {}
    for name in TYPES:
        with contextlib.suppress(ArgumentError):
            found[name] = loss(weights, requantize(name, weights))
    return found


def read_bytes(header: Header, tensor: TensorInfo, first: int, n_bytes: int) -> npt.NDArray[np.uint8]:
    """Read some of a tensor's bytes, and nothing else of the file.

    Raises
    ------
    ArgumentError
        When the header came from a server.
    GGUFError
        When the file is shorter than it was.
    """
    if not header.paths:
        raise ArgumentError("the weights lie on a server, and only the header was fetched: fetch the file first")
    data = LocalSource(header.paths[tensor.part]).read(tensor.offset + first, n_bytes)
    return np.frombuffer(data, np.uint8)


def read_weights(header: Header, tensor: TensorInfo, first: int, count: int) -> Floats:
    """Read and decode weights; ``first`` and ``count`` are whole blocks."""
    kind = tensor.type
    return decode(kind.name, read_bytes(header, tensor, kind.row_bytes(first), kind.row_bytes(count)))


def sample(header: Header, tensor: TensorInfo) -> Floats:
    """Read up to 65,536 weights of a tensor: all, or 64 runs of 1,024 from its beginning to its end."""
    chunks = tensor.n_elements // CHUNK
    if chunks * CHUNK <= _MAX_SAMPLE:
        return read_weights(header, tensor, 0, chunks * CHUNK)
    run = _MAX_SAMPLE // _RUNS
    starts = np.linspace(0, chunks - run // CHUNK, _RUNS).astype(int) * CHUNK
    return np.concatenate([read_weights(header, tensor, int(start), run) for start in starts])
