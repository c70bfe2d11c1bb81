"""The position of each tensor: one after the other, aligned, inside the file."""

from __future__ import annotations

import dataclasses
import math
from typing import NoReturn

from labkit.checks import visible
from labkit.gguf_file.cursor import Cursor
from labkit.gguf_file.formats import TensorType
from labkit.gguf_file.source import INCOMPLETE
from labkit.records import Record
from labkit.units import round_up

Entry = tuple[str, tuple[int, ...], TensorType, int]
"""One entry of the tensor table: name, shape, type, offset in the data."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TensorInfo(Record):
    """Where and how one tensor is stored.

    Attributes
    ----------
    name : str
        As in ``"blk.0.attn_q.weight"``.
    shape : tuple of int
        In ggml's order: the row length comes first (NumPy's shape is its reverse).
    type : TensorType
        The layout of its blocks.
    offset : int
        Offset of its first byte in its file.
    n_bytes, n_elements : int
        Its bytes without padding, and its weights.
    part : int
        Which file of a split model holds it, from 0.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    n_bytes: int
    n_elements: int
    part: int = 0


def lay_out(cursor: Cursor, entries: list[Entry], data_offset: int, alignment: int, part: int) -> tuple[TensorInfo, ...]:
    """Check that the tensors follow each other without gap or overlap, as llama.cpp requires."""
    tensors: list[TensorInfo] = []
    names: set[str] = set()
    expected = 0
    for name, shape, kind, offset in entries:
        if name in names:
            cursor.fail(f"duplicate tensor name '{visible(name)}'", data_offset)
        names.add(name)
        if offset != expected:
            _misplaced(cursor, name, offset, expected, alignment, tensors)
        n_elements = math.prod(shape)
        n_bytes = n_elements // kind.block_size * kind.block_bytes
        end = data_offset + offset + n_bytes
        if end > cursor.source.size:
            missing = end - cursor.source.size
            cursor.fail(
                f"the file ends inside the data of tensor '{visible(name)}', {missing:,} bytes are missing",
                cursor.source.size,
                INCOMPLETE,
            )
        tensors.append(TensorInfo(name, shape, kind, data_offset + offset, n_bytes, n_elements, part))
        expected = round_up(offset + n_bytes, alignment)
    extra = cursor.source.size - (data_offset + expected)
    if extra >= alignment:
        cursor.warnings.append(f"{extra:,} bytes follow the last tensor; they are not used")
    return tuple(tensors)


def _misplaced(cursor: Cursor, name: str, offset: int, expected: int, alignment: int, before: list[TensorInfo]) -> NoReturn:
    last = f"tensor '{visible(before[-1].name)}'" if before else "the beginning of the data"
    if offset % alignment:
        problem = f"not a multiple of the alignment {alignment}"
    elif offset < expected:
        problem = f"so it overlaps {last}, which ends at {expected:,}"
    else:
        problem = f"so it leaves a gap after {last}, which ends at {expected:,}"
    cursor.fail(f"tensor '{visible(name)}' is at offset {offset:,} of the data, {problem}")
