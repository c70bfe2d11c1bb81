"""Tables of a header's keys, tensors and blocks: pure functions for the GGUF explorer."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.checks import visible
from labkit.gguf_file import Header, LazyArray, TensorInfo
from labkit.tables import Table
from labkit.units import counted, format_bytes

if TYPE_CHECKING:
    from labkit.widgets.parts.block import BlockPart, Step  # needs NumPy, which a browser may lack

GROUPINGS = ("part of the model", "tensor type")
_MAX_ROWS = 300  # still fast in a browser and usable with a screen reader


def part_of_model(name: str) -> str:
    """Return which part of a transformer a tensor belongs to, by llama.cpp's names.

    Examples
    --------
    >>> [part_of_model(name) for name in ("blk.0.attn_q.weight", "blk.0.ffn_norm.weight", "output.weight")]
    ['attention', 'norms', 'embeddings']
    """
    parts = (("norm", "norms"), ("attn", "attention"), ("ffn", "feed-forward"), ("embd", "embeddings"))
    if name.startswith("output."):  # many models use one table for both
        return "embeddings"
    return next((part for word, part in parts if word in name), "other")


def groups_of(tensors: Sequence[TensorInfo], grouping: str) -> dict[str, list[int]]:
    """Return the bytes of each tensor by group; ``grouping`` is one of `GROUPINGS`."""
    groups: dict[str, list[int]] = {}
    for tensor in tensors:
        name = tensor.type.name if grouping == "tensor type" else part_of_model(tensor.name)
        groups.setdefault(name, []).append(tensor.n_bytes)
    return groups


def groups_table(tensors: Sequence[TensorInfo], grouping: str) -> Table:
    """Return the groups as a table, the largest first."""
    groups = groups_of(tensors, grouping)
    whole = max(1, sum(tensor.n_bytes for tensor in tensors))
    rows = [
        (name, f"{len(sizes):,}", f"{sum(sizes):,}", f"{100 * sum(sizes) / whole:.1f}")
        for name, sizes in sorted(groups.items(), key=lambda row: -sum(row[1]))
    ]
    return Table(f"Bytes by {grouping}", (grouping, "tensors", "size (bytes)", "share (%)"), rows)


def keys_table(header: Header, search: str = "") -> Table:
    """Return the keys whose row contains the text, with types and values."""
    rows = [(visible(key), header.types[key], _value(value)) for key, value in header.metadata.items()]
    return _found("keys", ("key", "type", "value"), rows, search)


def tensors_table(header: Header, search: str = "") -> tuple[Table, list[TensorInfo]]:
    """Return the tensors whose row contains the text, as a table and as a list."""
    rows = [(visible(one.name), _shape(one), one.type.name, f"{one.n_bytes:,}", f"{one.offset:,}") for one in header.tensors]
    columns = ("tensor", "shape (row length first)", "type", "size (bytes)", "offset in the file")
    found = [tensor for tensor, row in zip(header.tensors, rows, strict=True) if _matches(row, search)]
    return _found("tensors", columns, rows, search), found


def block_tables(tensor: TensorInfo, number: int, parts: Sequence[BlockPart], steps: Sequence[Step]) -> list[Table]:
    """Return two tables: a block's fields, and how its weights are decoded."""
    first = number * tensor.type.block_size
    fields = [(part.name, f"{part.offset}", f"{len(part.raw)}", part.raw.hex(" "), part.meaning) for part in parts]
    rows = [
        (f"{first + index:,}", step.place, "" if step.quant is None else f"{step.quant}", step.formula, f"{step.weight:.6g}")
        for index, step in enumerate(steps)
    ]
    return [
        Table("1. Bytes", ("field", "offset", "bytes", "hexadecimal", "meaning"), fields),
        Table("2. Weights", ("index", "position of its integer", "integer", "formula", "weight"), rows),
    ]


def scrolled(table: Table) -> str:
    """Return a table as HTML in a box that scrolls, also by keyboard."""
    style = "overflow:auto;max-height:24em"
    label = html.escape(table.title, quote=True)
    return f'<div tabindex="0" role="region" aria-label="{label}" style="{style}">{table.to_html()}</div>'


def _found(noun: str, columns: Sequence[str], rows: Sequence[Sequence[str]], search: str) -> Table:
    """Return the rows that match, with their number in the title."""
    found = [row for row in rows if _matches(row, search)]
    title = f"{len(found):,} of {len(rows):,} {noun}"
    if len(found) > _MAX_ROWS:
        title += f", the first {_MAX_ROWS} shown: search for more"
    return Table(title, columns, found[:_MAX_ROWS])


def _matches(row: Sequence[str], search: str) -> bool:
    return any(search.strip().casefold() in cell.casefold() for cell in row)


def _shape(tensor: TensorInfo) -> str:
    return " × ".join(f"{n:,}" for n in tensor.shape) or "scalar"


def _value(value: Any) -> str:
    """Return a value in one line; only the first elements of an array are read."""
    if isinstance(value, (tuple, LazyArray)):
        first = ", ".join(_one(item) for item in value[:4])
        return f"{counted(len(value), 'element')}: {first}{', …' if len(value) > 4 else ''}"
    return _one(value)


def _one(value: Any) -> str:
    return visible(value, 80) if isinstance(value, str) else str(value)


def header_sentence(header: Header) -> str:
    """Describe the file: version, architecture, counts, where the weights start, size."""
    return (
        f"GGUF version {header.version}, architecture {visible(header.architecture)}: "
        f"{counted(len(header.tensors), 'tensor')} and {counted(len(header.metadata), 'key')}. The weights start "
        f"at byte {header.data_offset:,}; the file has {format_bytes(header.file_size_bytes)}."
    )
