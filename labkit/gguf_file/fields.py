"""The first bytes of a GGUF file, field by field, for display; an invalid field ends the walk and is not an error.

To read a model, use `read_header`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from typing import Any

from labkit.gguf_file.cursor import U32, U64
from labkit.gguf_file.formats import TENSOR_TYPES
from labkit.gguf_file.values import ARRAY, SCALARS, STRING, type_name


@dataclasses.dataclass(frozen=True)
class Field:
    """Consecutive bytes, at least one, that encode one value.

    Where the bytes end inside the field, ``value`` is None for a number, and the available part of a text. ``note`` is the
    meaning of a code, or a problem.
    """

    offset: int
    size: int
    name: str
    value: Any
    note: str = ""

    @property
    def end(self) -> int:
        """Offset of the first byte after the field."""
        return self.offset + self.size


def fields(data: bytes) -> tuple[Field, ...]:
    """Return the fields of a GGUF header that begins with these bytes, in order, from byte 0.

    The last field is cut off where the bytes end. An invalid field (wrong magic, unknown type) ends the walk with a note.
    """
    walk = _Walk(data)
    with contextlib.suppress(_EndError):
        walk.header()
    return tuple(walk.found)


class _EndError(Exception):
    """The walk ends here."""


class _Walk:
    """Walk from field to field; each step consumes at least one byte, so the walk ends."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.found: list[Field] = []

    def header(self) -> None:
        """Walk over the counts, the keys, and the tensor table."""
        if self.text("magic", 4) != "GGUF":
            self.end("not the magic of a GGUF file")
        if (version := self.number("version", U32)) not in (2, 3):
            self.end(f"unsupported version {version:,}")
        n_tensors, n_keys = self.number("tensor count", U64), self.number("key count", U64)
        for _ in range(min(n_keys, len(self.data))):
            self.text("key name", self.number("key length", U64))
            self.value()
        for _ in range(min(n_tensors, len(self.data))):
            self.tensor()

    def value(self) -> None:
        """Walk over a value with its type; an array's elements one by one."""
        if (kind := self.kind("value type")) != ARRAY:
            self.one(kind, "value", "value length")
            return
        element = self.kind("element type")
        if element == ARRAY:
            self.end("GGUF has no arrays of arrays")
        count = self.number("element count", U64)
        for _ in range(min(count, len(self.data))):
            self.one(element, "element", "element length")

    def tensor(self) -> None:
        """Walk over an entry of the tensor table."""
        self.text("tensor name", self.number("tensor name length", U64))
        n_dims = self.number("dimension count", U32)
        for index in range(min(n_dims, len(self.data))):
            self.number("row length" if index == 0 else f"dimension {index + 1}", U64)
        code = self.number("tensor type", U32)
        self.note(TENSOR_TYPES[code].name if code in TENSOR_TYPES else "unknown")
        self.number("tensor offset", U64)

    def kind(self, name: str) -> int:
        """Walk over the code of a value's type."""
        code: int = self.number(name, U32)
        if code not in SCALARS and code not in (STRING, ARRAY):
            self.end("unknown: 0 to 12 are known")
        self.note(type_name(code))
        return code

    def one(self, kind: int, name: str, length_name: str) -> None:
        """Walk over one scalar or string."""
        if kind == STRING:
            self.text(name, self.number(length_name, U64))
        else:
            self.number(name, SCALARS[kind][1])

    def number(self, name: str, form: struct.Struct) -> Any:
        """Walk over a number; the walk ends where it is cut off."""
        raw = self.data[self.at : self.at + form.size]
        whole = len(raw) == form.size
        self.add(len(raw), name, form.unpack(raw)[0] if whole else None, whole=whole)
        return self.found[-1].value

    def text(self, name: str, size: int) -> str:
        """Walk over a text; an empty text has no bytes and makes no field."""
        raw = self.data[self.at : self.at + size]
        if size:
            self.add(len(raw), name, raw.decode("utf-8", "replace"), whole=len(raw) == size)
        return raw.decode("utf-8", "replace")

    def add(self, size: int, name: str, value: Any, *, whole: bool) -> None:
        """Record a field; the walk ends where it is cut off."""
        if size:
            self.found.append(Field(self.at, size, name, value))
        self.at += size
        if not whole:
            self.end("cut off: the bytes end here" if size else "")

    def note(self, note: str) -> None:
        """Add a note to the last field."""
        self.found[-1] = dataclasses.replace(self.found[-1], note=note)

    def end(self, why: str) -> None:
        """End the walk and note the reason at the last field."""
        if why and self.found:
            self.note(why)
        raise _EndError
