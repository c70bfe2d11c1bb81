"""The first bytes of a file as HTML: eight per line in hexadecimal, with coloured and named fields."""

from __future__ import annotations

import html
from collections.abc import Sequence

from labkit.checks import visible
from labkit.gguf_file.fields import Field
from labkit.tables import Table

_BYTES = 8  # per line: a header's counts have 8 bytes each, and the line fits on a phone
_LINES = 16  # before it scrolls: whole ones
LIGHT_COLOURS = ("#CFE8F7", "#FBE3B0", "#BFE6D8", "#F3D3E4")  # light shades of Okabe and Ito's, for black text
_PAGE = (
    '<pre tabindex="0" role="region" aria-label="The first bytes, {n} per line, and the fields that start in each line" '
    'style="overflow:auto;box-sizing:content-box;max-height:{height}em;white-space:pre;line-height:1.6;font-size:0.8em;'
    'color:#000;background:#fff;padding:0 4px">{lines}</pre>'
)


def hex_html(data: bytes, fields: Sequence[Field]) -> str:
    """Return lines of offset, bytes, ASCII and the fields that start in the line, with their numbers."""
    owners = {at: number for number, field in enumerate(fields) for at in range(field.offset, field.end)}
    lines = []
    for start in range(0, len(data), _BYTES):
        row = range(start, min(start + _BYTES, len(data)))
        code = "".join(_byte(f"{data[at]:02x}", owners.get(at), is_last=owners.get(at) != owners.get(at + 1)) for at in row)
        letters = "".join(chr(data[at]) if 32 <= data[at] < 127 else "·" for at in row)
        starting = [
            f"{number + 1} {field.name}" for number, field in enumerate(fields) if start <= field.offset < start + _BYTES
        ]
        gap = " " * (3 * (_BYTES - len(row)))
        names = html.escape(", ".join(starting))
        lines.append(f"{start:3} {code}{gap} {html.escape(letters.ljust(_BYTES))} {names}".rstrip())
    return _PAGE.format(n=_BYTES, height=1.6 * _LINES, lines="\n".join(lines))


def fields_table(fields: Sequence[Field]) -> Table:
    """Return the legend: each field with its position, size and value."""
    rows = [
        (f"{number + 1} {field.name}", f"{field.offset:,}", f"{field.size:,}", _value(field), field.note)
        for number, field in enumerate(fields)
    ]
    return Table("The fields, in order", ("field", "offset", "bytes", "value", "note"), rows)


def _byte(code: str, owner: int | None, *, is_last: bool) -> str:
    """Return two digits in their field's colour; a bar after the last byte marks the field without colour."""
    if owner is None:
        return f"{code} "
    edge = ";border-right:2px solid #000" if is_last else ""
    return f'<span style="background:{LIGHT_COLOURS[owner % len(LIGHT_COLOURS)]}{edge}">{code}</span> '


def _value(field: Field) -> str:
    if field.value is None:
        return ""
    return (
        visible(field.value) if isinstance(field.value, str) else f"{field.value:,}" if _counts(field) else str(field.value)
    )


def _counts(field: Field) -> bool:
    return isinstance(field.value, int) and not isinstance(field.value, bool)
