"""The types that GGUF stores: tensor types (the layout of one block) and file types (the name of a whole file's mix).

A quantized tensor is a sequence of *blocks*: the weights of a block share a scale, and its size is the sum of its fields.
Bits per weight follow from that sum: a Q4_0 block is a 2-byte scale and 32 four-bit weights,
(2 + 16) * 8 / 32 = 4.5 bits per weight.

References
----------
llama.cpp: ``ggml/src/ggml-common.h`` (the block structures), ``ggml/include/ggml.h`` (``ggml_type``),
``include/llama.h`` (``llama_ftype``).
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from labkit.checks import nearest, shown
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.records import Record


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TensorType(Record):
    """How the weights of one tensor are stored.

    Attributes
    ----------
    id : int
        The number in the file, a ``ggml_type``.
    name : str
        As people write it: ``"Q4_K"``.
    block_size : int
        Weights in one block; a row's length must be a multiple of it.
    block_parts : tuple of (str, int)
        The fields of one block and their bytes, in file order.
    block_bytes : int
        Bytes of one block, the sum of its parts.
    bits_per_weight : float
        ``8 * block_bytes / block_size``.
    layout : str
        One sentence: how weights are computed from a block.
    """

    id: int
    name: str
    block_size: int
    block_parts: tuple[tuple[str, int], ...]
    block_bytes: int
    bits_per_weight: float
    layout: str

    @property
    def is_quantized(self) -> bool:
        """True where several weights share a block."""
        return self.block_size > 1

    def row_bytes(self, n_elements: int) -> int:
        """Return the bytes of a row of ``n_elements`` weights (a multiple of ``block_size``)."""
        return n_elements // self.block_size * self.block_bytes


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class FileType(Record):
    """How a whole file was quantized (``general.file_type``).

    Attributes
    ----------
    id : int
        The number in the file, a ``llama_ftype``.
    name : str
        As people write it: ``"Q4_K_M"``.
    tensor_type : str
        Name of the tensor type of most of its weight matrices.
    description : str
        Which tensors get which type.
    quality, speed : str or None
        The lab's ratings of the six types that it compares; None for all others.
    """

    id: int
    name: str
    tensor_type: str
    description: str
    quality: str | None = None
    speed: str | None = None


def _type(number: int, name: str, block_size: int, layout: str, *parts: tuple[str, int]) -> TensorType:
    block_bytes = sum(n_bytes for _, n_bytes in parts)
    return TensorType(number, name, block_size, parts, block_bytes, 8 * block_bytes / block_size, layout)


_QK = 256  # weights in a super-block of the K, IQ and TQ types
_SCALE = ("f16 scale", 2)
_MIN = ("f16 minimum", 2)
_K_SCALES = ("8 scales and 8 minimums of 6 bits", 8 * (6 + 6) // 8)

# fmt: off
_ALL_TYPES = (
    _type(0, "F32", 1, "One 32-bit float per weight.", ("f32", 4)),
    _type(1, "F16", 1, "One 16-bit float per weight: 5 bits of exponent, 10 of fraction.", ("f16", 2)),
    _type(30, "BF16", 1, "The upper half of a 32-bit float: its full range, 7 bits of fraction.", ("bf16", 2)),
    _type(28, "F64", 1, "One 64-bit float per number; never used for weights.", ("f64", 8)),
    _type(24, "I8", 1, "One 8-bit integer per number; never used for weights.", ("i8", 1)),
    _type(25, "I16", 1, "One 16-bit integer per number; never used for weights.", ("i16", 2)),
    _type(26, "I32", 1, "One 32-bit integer per number; holds indices, not weights.", ("i32", 4)),
    _type(27, "I64", 1, "One 64-bit integer per number; never used for weights.", ("i64", 8)),
    _type(2, "Q4_0", 32, "32 weights share a scale: weight = scale * (q - 8), q from 0 to 15.",
          _SCALE, ("4-bit quants", 32 * 4 // 8)),
    _type(3, "Q4_1", 32, "32 weights share a scale and a minimum: weight = scale * q + minimum, q from 0 to 15.",
          _SCALE, _MIN, ("4-bit quants", 32 * 4 // 8)),
    _type(6, "Q5_0", 32, "32 weights share a scale: weight = scale * (q - 16); the fifth bits are stored separately.",
          _SCALE, ("fifth bits", 32 // 8), ("4-bit quants", 32 * 4 // 8)),
    _type(7, "Q5_1", 32, "32 weights share a scale and a minimum: weight = scale * q + minimum, q from 0 to 31.",
          _SCALE, _MIN, ("fifth bits", 32 // 8), ("4-bit quants", 32 * 4 // 8)),
    _type(8, "Q8_0", 32, "32 weights share a scale: weight = scale * q, q from -127 to 127.",
          _SCALE, ("8-bit quants", 32)),
    _type(9, "Q8_1", 32, "Q8_0 plus the scaled sum of its quants; used during computation, not stored in files.",
          _SCALE, ("f16 scale * sum of quants", 2), ("8-bit quants", 32)),
    _type(10, "Q2_K", _QK, "16 groups of 16 weights, each with a 4-bit scale and minimum of a super-block of 256.",
          ("16 scales and 16 minimums of 4 bits", 16), ("2-bit quants", _QK * 2 // 8), _SCALE, _MIN),
    _type(11, "Q3_K", _QK, "16 groups of 16 weights, each with a 6-bit scale; the third bits are stored separately.",
          ("third bits", _QK // 8), ("2-bit quants", _QK * 2 // 8), ("16 scales of 6 bits", 16 * 6 // 8), _SCALE),
    _type(12, "Q4_K", _QK, "8 groups of 32 weights, each with a 6-bit scale and minimum of a super-block of 256.",
          _SCALE, _MIN, _K_SCALES, ("4-bit quants", _QK * 4 // 8)),
    _type(13, "Q5_K", _QK, "Q4_K with a fifth bit per weight, stored separately.",
          _SCALE, _MIN, _K_SCALES, ("fifth bits", _QK // 8), ("4-bit quants", _QK * 4 // 8)),
    _type(14, "Q6_K", _QK, "16 groups of 16 weights, each with an 8-bit scale: weight = scale * (q - 32), q of 6 bits.",
          ("lower 4 bits", _QK * 4 // 8), ("upper 2 bits", _QK * 2 // 8), ("16 scales of 8 bits", 16), _SCALE),
    _type(15, "Q8_K", _QK, "256 8-bit quants, an f32 scale, sums of 16; used during computation, not stored in files.",
          ("f32 scale", 4), ("8-bit quants", _QK), ("16 sums of 16 bits", _QK // 16 * 2)),
    _type(16, "IQ2_XXS", _QK, "Groups of 8 weights are entries of a codebook of 256, plus signs and scales.",
          _SCALE, ("codebook indices, signs and scales", _QK // 8 * 2)),
    _type(17, "IQ2_XS", _QK, "Groups of 8 weights are entries of a codebook of 512, with a 4-bit scale for every 16.",
          _SCALE, ("9-bit indices and 7-bit signs", _QK // 8 * 2), ("16 scales of 4 bits", _QK // 32)),
    _type(22, "IQ2_S", _QK, "Groups of 8 weights are entries of a codebook of 1,024, with signs and 4-bit scales.",
          _SCALE, ("index bytes and signs", _QK // 4), ("upper index bits", _QK // 32),
          ("16 scales of 4 bits", _QK // 32)),
    _type(18, "IQ3_XXS", _QK, "Groups of 4 weights are entries of a codebook of 256, plus signs and scales.",
          _SCALE, ("index bytes", _QK // 4), ("signs and scales", _QK // 8)),
    _type(21, "IQ3_S", _QK, "Groups of 4 weights are entries of a codebook of 512, with signs and 4-bit scales.",
          _SCALE, ("index bytes", _QK // 4), ("upper index bits", _QK // 32), ("signs", _QK // 8),
          ("8 scales of 4 bits", _QK // 64)),
    _type(19, "IQ1_S", _QK, "Groups of 8 weights are entries of a ternary codebook of 2,048; 3-bit scale for every 32.",
          _SCALE, ("index bytes", _QK // 8), ("upper index bits, scales and shifts", _QK // 32 * 2)),
    _type(29, "IQ1_M", _QK, "IQ1_S with a 3-bit scale for every 16; the spare bits of the scales hold an f16 scale.",
          ("index bytes", _QK // 8), ("upper index bits and shifts", _QK // 16), ("scales", _QK // 32)),
    _type(20, "IQ4_NL", 32, "32 weights share a scale; the 4-bit quant looks up one of 16 unevenly spaced values.",
          _SCALE, ("4-bit quants", 32 * 4 // 8)),
    _type(23, "IQ4_XS", _QK, "IQ4_NL in super-blocks of 256, each group of 32 with a 6-bit scale.",
          _SCALE, ("upper 2 bits of 8 scales", 2), ("lower 4 bits of 8 scales", _QK // 64),
          ("4-bit quants", _QK * 4 // 8)),
    _type(34, "TQ1_0", _QK, "Ternary weights (-1, 0, 1), five to a byte because 3^5 = 243 fits in 256.",
          ("240 weights, 5 a byte", 240 // 5), ("16 weights, 4 a byte", 16 // 4), _SCALE),
    _type(35, "TQ2_0", _QK, "Ternary weights (-1, 0, 1) in 2 bits each.", ("2-bit quants", _QK * 2 // 8), _SCALE),
    _type(39, "MXFP4", 32, "32 four-bit floats (E2M1) share a power of two as the scale.",
          ("E8M0 scale", 1), ("4-bit floats", 32 * 4 // 8)),
    _type(40, "NVFP4", 64, "64 four-bit floats (E2M1), each 16 of them with an 8-bit float (E4M3) as scale.",
          ("4 scales of 8 bits", 64 // 16), ("4-bit floats", 64 * 4 // 8)),
    _type(41, "Q1_0", 128, "128 weights share a scale; one bit is the sign.", _SCALE, ("sign bits", 128 // 8)),
    _type(42, "Q2_0", 64, "64 weights share a scale; two bits choose among four values.",
          _SCALE, ("2-bit quants", 64 * 2 // 8)),
)

TENSOR_TYPES: dict[int, TensorType] = {row.id: row for row in sorted(_ALL_TYPES, key=lambda row: row.id)}
"""Every tensor type that llama.cpp reads, by its number in the file."""

REMOVED_TENSOR_TYPES: dict[int, str] = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}
"""Types in older files that llama.cpp no longer reads: such a file must be quantized again."""

_ONE = "Every weight matrix"
_MIX = "Most matrices"

FILE_TYPES: dict[int, FileType] = {row.id: row for row in (
    FileType(0, "F32", "F32", "Every tensor in 32-bit floats."),
    FileType(1, "F16", "F16", f"{_ONE} in F16.", "reference", "slowest"),
    FileType(2, "Q4_0", "Q4_0", f"{_ONE} in Q4_0, the output in Q6_K.", "fair", "very fast"),
    FileType(3, "Q4_1", "Q4_1", f"{_ONE} in Q4_1, the output in Q6_K or Q8_0."),
    FileType(7, "Q8_0", "Q8_0", f"{_ONE} in Q8_0.", "nearly lossless", "slow"),
    FileType(8, "Q5_0", "Q5_0", f"{_ONE} in Q5_0, the output in Q6_K."),
    FileType(9, "Q5_1", "Q5_1", f"{_ONE} in Q5_1, the output in Q6_K."),
    FileType(10, "Q2_K", "Q2_K", f"{_MIX} in Q2_K, attention values and some others in Q3_K or Q4_K."),
    FileType(21, "Q2_K_S", "Q2_K", f"{_MIX} in Q2_K, fewer exceptions than Q2_K."),
    FileType(11, "Q3_K_S", "Q3_K", f"{_ONE} in Q3_K, the output in Q6_K."),
    FileType(12, "Q3_K_M", "Q3_K", f"{_MIX} in Q3_K, the sensitive ones in Q4_K or Q5_K.", "low", "fast"),
    FileType(13, "Q3_K_L", "Q3_K", f"{_MIX} in Q3_K, the sensitive ones in Q5_K."),
    FileType(14, "Q4_K_S", "Q4_K", f"{_MIX} in Q4_K, a few early layers in Q5_K."),
    FileType(15, "Q4_K_M", "Q4_K", f"{_MIX} in Q4_K, half of the sensitive ones in Q6_K.", "good", "fast"),
    FileType(16, "Q5_K_S", "Q5_K", f"{_ONE} in Q5_K, the output in Q6_K."),
    FileType(17, "Q5_K_M", "Q5_K", f"{_MIX} in Q5_K, half of the sensitive ones in Q6_K.", "very good", "medium"),
    FileType(18, "Q6_K", "Q6_K", f"{_ONE} in Q6_K."),
    FileType(19, "IQ2_XXS", "IQ2_XXS", f"{_MIX} in IQ2_XXS; needs an importance matrix."),
    FileType(20, "IQ2_XS", "IQ2_XS", f"{_MIX} in IQ2_XS; needs an importance matrix."),
    FileType(28, "IQ2_S", "IQ2_XS", f"{_MIX} in IQ2_XS, the sensitive ones in IQ3_S."),
    FileType(29, "IQ2_M", "IQ2_S", f"{_MIX} in IQ2_S, the sensitive ones in IQ3_S."),
    FileType(23, "IQ3_XXS", "IQ3_XXS", f"{_MIX} in IQ3_XXS, some in IQ2_S or IQ3_S."),
    FileType(22, "IQ3_XS", "IQ3_S", "A mix of IQ3_XXS and IQ3_S."),
    FileType(26, "IQ3_S", "IQ3_S", f"{_MIX} in IQ3_S."),
    FileType(27, "IQ3_M", "IQ3_S", f"{_MIX} in IQ3_S, the sensitive ones in Q4_K."),
    FileType(24, "IQ1_S", "IQ1_S", f"{_MIX} in IQ1_S; needs an importance matrix."),
    FileType(31, "IQ1_M", "IQ1_M", f"{_MIX} in IQ1_M; needs an importance matrix."),
    FileType(25, "IQ4_NL", "IQ4_NL", f"{_MIX} in IQ4_NL, some in Q5_K."),
    FileType(30, "IQ4_XS", "IQ4_XS", f"{_MIX} in IQ4_XS, some in Q5_K."),
    FileType(32, "BF16", "BF16", f"{_ONE} in BF16."),
    FileType(36, "TQ1_0", "TQ1_0", f"{_MIX} in ternary TQ1_0; for models trained that way."),
    FileType(37, "TQ2_0", "TQ2_0", f"{_MIX} in ternary TQ2_0; for models trained that way."),
    FileType(38, "MXFP4_MOE", "MXFP4", "The experts in MXFP4, the rest in Q8_0 or wider."),
    FileType(39, "NVFP4", "NVFP4", f"{_MIX} in NVFP4."),
    FileType(40, "Q1_0", "Q1_0", f"{_MIX} in Q1_0; for models trained that way."),
    FileType(41, "Q2_0", "Q2_0", f"{_MIX} in Q2_0; for models trained that way."),
)}
"""Every file type that llama.cpp writes today, by ``general.file_type``."""
# fmt: on

NOT_WRITABLE = frozenset({
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S", "NVFP4",
})  # fmt: skip
"""File types that llama.cpp's quantizer refuses: all but NVFP4 need an importance matrix."""

_TYPES_BY_NAME = {row.name.upper(): row for row in _ALL_TYPES}
_FILE_TYPES_BY_NAME = {row.name.upper(): row for row in FILE_TYPES.values()}


def tensor_type(name: str) -> TensorType:
    """Return a tensor type by its name, in any case.

    Examples
    --------
    >>> q4 = tensor_type("q4_0")
    >>> q4.block_parts, q4.block_bytes, q4.bits_per_weight
    ((('f16 scale', 2), ('4-bit quants', 16)), 18, 4.5)
    """
    return _by_name(_TYPES_BY_NAME, name, "tensor type")


def file_type(name: str) -> FileType:
    """Return a file type by its name, in any case."""
    return _by_name(_FILE_TYPES_BY_NAME, name, "file type")


_Row = TypeVar("_Row", TensorType, FileType)


def _by_name(rows: dict[str, _Row], name: str, noun: str) -> _Row:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"a {noun} is given by its name, not {shown(name)}")
    row = rows.get(name.strip().upper())
    if row is not None:
        return row
    near = nearest(name.upper(), rows)
    hint = f" (did you mean {rows[near].name!r}?)" if near else ""
    known = ", ".join(row.name for row in rows.values())
    raise ArgumentError(f"unknown {noun} {name[:60]!r}{hint}; the {noun}s are {known}")
