"""Readable codecs: float32 weights to the bytes of a block and back, bit-identical to llama.cpp.

Notes
-----
``encode`` refuses NaN and infinities: llama.cpp casts them to integers, which is undefined in C. A block whose scale is
too small for its reciprocal (below about 3e-39) gets quants of 0; its scale is 0 in half precision, so it decodes to
zeros in any case. A scale above 65,504 becomes infinite, as in llama.cpp.

References
----------
llama.cpp: ``ggml/src/ggml-quants.c`` (``quantize_row_*_ref``, ``dequantize_row_*``), ``ggml/src/ggml-common.h``.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from labkit.errors import ArgumentError
from labkit.gguf_file.formats import tensor_type

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Codec:
    """One tensor type: converts ``block_size`` weights to ``block_bytes`` bytes and back.

    A subclass works on blocks: ``_encode`` converts (blocks, block_size) to (blocks, block_bytes), ``_decode`` back.
    """

    name: ClassVar[str]

    @classmethod
    def encode(cls, weights: npt.ArrayLike) -> Bytes:
        """Quantize weights of shape (..., n) to bytes of shape (..., n // block_size * block_bytes).

        Raises
        ------
        ArgumentError
            When n is not a multiple of the block size, or a weight is NaN or infinite.
        """
        kind = tensor_type(cls.name)
        rows = _rows(np.asarray(weights, np.float32), kind.block_size, f"{cls.name} encodes", "weights")
        if not np.isfinite(rows).all():
            raise ArgumentError(f"{cls.name} encodes finite weights only, but some are NaN or infinite: replace them first")
        with np.errstate(all="ignore"):
            blocks = cls._encode(rows.reshape(-1, kind.block_size))
        return blocks.reshape(*rows.shape[:-1], rows.shape[-1] // kind.block_size * kind.block_bytes)

    @classmethod
    def decode(cls, data: npt.ArrayLike) -> Floats:
        """Decode bytes of shape (..., n * block_bytes) to weights of shape (..., n * block_size).

        Raises
        ------
        ArgumentError
            When the last axis is not a multiple of the block's bytes, or the data are not bytes.
        """
        kind = tensor_type(cls.name)
        array = np.asarray(data)
        if array.dtype != np.uint8:
            raise ArgumentError(
                f"{cls.name} decodes bytes (uint8), not {array.dtype}: pass the tensor's data from the file, unchanged"
            )
        rows = _rows(array, kind.block_bytes, f"{cls.name} decodes", "bytes")
        with np.errstate(all="ignore"):
            blocks = cls._decode(rows.reshape(-1, kind.block_bytes))
        return blocks.reshape(*rows.shape[:-1], rows.shape[-1] // kind.block_bytes * kind.block_size)

    @classmethod
    def _encode(cls, blocks: Floats) -> Bytes:
        raise ArgumentError(
            f"{cls.name} can only be decoded here: quantize_model encodes it, with a search for the best scales"
        )

    @classmethod
    def _decode(cls, blocks: Bytes) -> Floats:
        raise NotImplementedError


class Q8_0(Codec):  # noqa: N801 - the type's name
    """32 weights share a scale: ``weight = scale * q``, q from -127 to 127.

    Notes
    -----
    Block of 34 bytes: f16 scale (2), 32 signed bytes (32). ``scale = max|w| / 127``; halves are rounded away from zero.

    References
    ----------
    ``ggml/src/ggml-quants.c``: ``quantize_row_q8_0_ref``, ``dequantize_row_q8_0``.

    Examples
    --------
    >>> data = Q8_0.encode([127.0, -1.0] + [0.0] * 30)
    >>> data.nbytes, Q8_0.decode(data)[:2].tolist()
    (34, [127.0, -1.0])
    """

    name = "Q8_0"

    @classmethod
    def _encode(cls, blocks: Floats) -> Bytes:
        scale = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
        quants = _round_half_away(_integers(blocks * _reciprocal(scale)))
        return np.concatenate([_half(scale), quants.astype(np.int8).view(np.uint8)], axis=-1)

    @classmethod
    def _decode(cls, blocks: Bytes) -> Floats:
        scale, quants = _floats(blocks[:, :2]), blocks[:, 2:].view(np.int8).astype(np.float32)
        return quants * scale


class Q4_0(Codec):  # noqa: N801 - the type's name
    """32 weights share a scale: ``weight = scale * (q - 8)``, q from 0 to 15.

    Notes
    -----
    Block of 18 bytes: f16 scale (2), 16 bytes (16); byte j holds weight j (lower nibble) and weight j + 16 (upper).
    ``scale = w / -8`` for the weight w farthest from zero, which gets exactly q = 0; weights of the other sign reach 7.
    A block of zeros has the scale -0.0; so does a block of negative zeros, where the gguf package writes +0.0.

    References
    ----------
    ``ggml/src/ggml-quants.c``: ``quantize_row_q4_0_ref``, ``dequantize_row_q4_0``.

    Examples
    --------
    >>> data = Q4_0.encode([-8.0, 7.0] + [0.0] * 30)
    >>> data.nbytes, Q4_0.decode(data)[:2].tolist()
    (18, [-8.0, 7.0])
    """

    name = "Q4_0"

    @classmethod
    def _encode(cls, blocks: Floats) -> Bytes:
        farthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1)
        scale = np.where(farthest == 0, np.float32(0), farthest) / np.float32(-8)
        quants = _integers(blocks * _reciprocal(scale) + np.float32(8.5))
        return np.concatenate([_half(scale), _pack_nibbles(quants)], axis=-1)

    @classmethod
    def _decode(cls, blocks: Bytes) -> Floats:
        return cast(Floats, (_nibbles(blocks[:, 2:], 16) - np.float32(8)) * _floats(blocks[:, :2]))


class Q4_1(Codec):  # noqa: N801 - the type's name
    """32 weights share a scale and a minimum: ``weight = scale * q + minimum``, q from 0 to 15.

    Notes
    -----
    Block of 20 bytes: f16 scale (2), f16 minimum (2), 16 bytes (16) packed as in Q4_0. ``scale = (max - min) / 15``.

    References
    ----------
    ``ggml/src/ggml-quants.c``: ``quantize_row_q4_1_ref``, ``dequantize_row_q4_1``.

    Examples
    --------
    >>> data = Q4_1.encode([3.0, 18.0] + [4.0] * 30)
    >>> data.nbytes, Q4_1.decode(data)[:3].tolist()
    (20, [3.0, 18.0, 4.0])
    """

    name = "Q4_1"

    @classmethod
    def _encode(cls, blocks: Floats) -> Bytes:
        low = np.take_along_axis(blocks, blocks.argmin(axis=-1, keepdims=True), axis=-1)  # the first of 0.0 and -0.0
        scale = (blocks.max(axis=-1, keepdims=True) - low) / np.float32(15)
        quants = _integers((blocks - low) * _reciprocal(scale) + np.float32(0.5))
        return np.concatenate([_half(scale), _half(low), _pack_nibbles(quants)], axis=-1)

    @classmethod
    def _decode(cls, blocks: Bytes) -> Floats:
        return cast(Floats, _nibbles(blocks[:, 4:], 16) * _floats(blocks[:, :2]) + _floats(blocks[:, 2:4]))


class Q4_K(Codec):  # noqa: N801 - the type's name
    """8 groups of 32 weights in a super-block of 256: ``weight = d * scale[g] * q - dmin * minimum[g]``, q from 0 to 15.

    Notes
    -----
    Block of 144 bytes: f16 d (2), f16 dmin (2), 8 scales and 8 minimums of 6 bits (12), 256 quants of 4 bits (128).
    Groups 2i and 2i + 1 share 32 bytes: the lower nibbles are group 2i, the upper nibbles group 2i + 1.

    References
    ----------
    ``ggml/src/ggml-quants.c``: ``dequantize_row_q4_K``, ``get_scale_min_k4``.
    """

    name = "Q4_K"

    @classmethod
    def _decode(cls, blocks: Bytes) -> Floats:
        scales, minimums = cls._scales(blocks[:, 4:16])
        steps = (_floats(blocks[:, :2]) * scales)[..., None]
        offsets = (_floats(blocks[:, 2:4]) * minimums)[..., None]
        weights = steps * _nibbles(blocks[:, 16:], 32).reshape(-1, 8, 32) - offsets
        return weights.reshape(-1, 256)

    @staticmethod
    def _scales(packed: Bytes) -> tuple[Floats, Floats]:
        """Unpack 12 bytes: groups 0-3 in the lower 6 bits of bytes 0-7, groups 4-7 in bytes 8-11 and the upper 2 bits."""
        first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
        scales = [first & 63, (third & 15) | (first >> 6 << 4)]
        minimums = [second & 63, (third >> 4) | (second >> 6 << 4)]
        return np.concatenate(scales, axis=-1).astype(np.float32), np.concatenate(minimums, axis=-1).astype(np.float32)


CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (Q8_0, Q4_0, Q4_1, Q4_K)}
"""The codecs by tensor type."""


def _rows(array: npt.NDArray[Any], unit: int, who: str, noun: str) -> npt.NDArray[Any]:
    if array.ndim == 0 or array.shape[-1] % unit:
        raise ArgumentError(
            f"{who} {noun} whose last axis is a multiple of {unit}, not of shape {array.shape}: pad or cut it"
        )
    return np.ascontiguousarray(array)


def _reciprocal(scale: Floats) -> Floats:
    return cast(Floats, np.where(scale == 0, np.float32(0), np.float32(1) / scale))


def _integers(values: Floats) -> Floats:
    """Truncate to integers; 0 where the cast is undefined in C."""
    return np.where(np.isfinite(values), values, np.float32(0))


def _round_half_away(values: Floats) -> Floats:
    """C's ``roundf``; NumPy's ``round`` rounds halves to even."""
    size = np.abs(values)
    floor = np.floor(size)
    return cast(Floats, np.copysign(floor + np.floor(2 * (size - floor)), values))


def _half(values: Floats) -> Bytes:
    return values.astype("<f2").view(np.uint8)


def _floats(data: Bytes) -> Floats:
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def _pack_nibbles(quants: Floats) -> Bytes:
    whole = np.minimum(quants, 15).astype(np.uint8)
    return cast(Bytes, whole[:, :16] | whole[:, 16:] << 4)


def _nibbles(packed: Bytes, group: int) -> Floats:
    """Unpack (blocks, bytes): for each ``group`` bytes, first the lower nibbles, then the upper ones."""
    bytes_ = packed.reshape(len(packed), -1, 1, group)
    return np.concatenate([bytes_ & 15, bytes_ >> 4], axis=2).reshape(len(packed), -1).astype(np.float32)
