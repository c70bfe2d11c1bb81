"""One block of a tensor, step by step: bytes, scales, quantized integers, weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from labkit.gguf_file.formats import TensorType
from labkit.quantize import Q4_K
from labkit.widgets.parts.weights import can_decode, decode

Bytes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class BlockPart:
    """A field of a block."""

    name: str  # as in `labkit.gguf_file.formats`
    offset: int  # its first byte in the block
    raw: bytes
    meaning: str  # the decoded value, or a description


@dataclasses.dataclass(frozen=True)
class Step:
    """How one weight is decoded."""

    place: str  # of its quantized integer in the block: "byte 4, lower half"
    quant: int | None  # None for a type that is decoded as a whole
    formula: str  # with this block's numbers
    weight: float


def parts_of(kind: TensorType, raw: Bytes) -> tuple[BlockPart, ...]:
    """Split a block into its fields."""
    found, at = [], 0
    for name, size in kind.block_parts:
        piece = raw[at : at + size]
        found.append(BlockPart(name, at, piece.tobytes(), _meaning(kind, name, raw, piece)))
        at += size
    return tuple(found)


def steps_of(kind: TensorType, raw: Bytes) -> tuple[Step, ...]:
    """Return how each weight of a block is decoded."""
    weights = [float(weight) for weight in decode(kind.name, raw)]
    if kind.name not in _MAKERS:
        return tuple(Step("", None, "", weight) for weight in weights)
    made = _MAKERS[kind.name](raw)
    return tuple(Step(*step, weight) for step, weight in zip(made, weights, strict=True))


def half(raw: Bytes) -> float:
    """Decode a 16-bit float."""
    return float(np.frombuffer(raw.tobytes(), "<f2")[0])


def _meaning(kind: TensorType, name: str, raw: Bytes, piece: Bytes) -> str:
    if len(piece) == 2 and name.startswith(("f16 scale", "f16 minimum")):
        return f"{half(piece):.6g}"
    if kind.name == "Q4_K" and name.startswith("8 scales"):
        scales, minimums = (", ".join(f"{int(one)}" for one in values) for values in _small_scales(raw))
        return f"scales {scales}; minimums {minimums}"
    if name == "4-bit quants" and kind.name in _MAKERS:
        return "each byte holds two integers from 0 to 15"
    if name == "8-bit quants" and kind.name == "Q8_0":
        return "each byte is an integer from -127 to 127"
    alone = kind.block_size == 1 and can_decode(kind.name)
    return f"{float(decode(kind.name, raw)[0]):.6g}" if alone else ""


def _small_scales(raw: Bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    scales, minimums = Q4_K._scales(raw[None, 4:16])
    return scales[0], minimums[0]


Made = list[tuple[str, int, str]]


def _nibble(raw: Bytes, at: int, *, upper: bool) -> tuple[str, int]:
    byte = int(raw[at])
    return f"byte {at}, {'upper' if upper else 'lower'} half of {byte:02x}", byte >> 4 if upper else byte & 15


def _signed(value: float) -> str:
    return f"- {-value:.4g}" if value < 0 else f"+ {value:.4g}"


def _q8_0(raw: Bytes) -> Made:
    scale, quants = half(raw[:2]), raw[2:].view(np.int8)
    return [
        (f"byte {2 + index}, {int(raw[2 + index]):02x}", int(q), f"{scale:.4g} × {int(q)}") for index, q in enumerate(quants)
    ]


def _q4_0(raw: Bytes) -> Made:
    scale = half(raw[:2])
    halves = [_nibble(raw, 2 + index % 16, upper=index >= 16) for index in range(32)]
    return [(place, q, f"{scale:.4g} × ({q} - 8)") for place, q in halves]


def _q4_1(raw: Bytes) -> Made:
    scale, least = half(raw[:2]), half(raw[2:4])
    halves = [_nibble(raw, 4 + index % 16, upper=index >= 16) for index in range(32)]
    return [(place, q, f"{scale:.4g} × {q} {_signed(least)}") for place, q in halves]


def _q4_k(raw: Bytes) -> Made:
    d, dmin = half(raw[:2]), half(raw[2:4])
    scales, minimums = _small_scales(raw)
    made: Made = []
    for index in range(256):
        group = index // 32
        place, q = _nibble(raw, 16 + group // 2 * 32 + index % 32, upper=group % 2 == 1)
        made.append((place, q, f"{d:.4g} × {scales[group]:.0f} × {q} {_signed(-dmin * float(minimums[group]))}"))
    return made


_MAKERS = {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}
