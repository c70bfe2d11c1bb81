"""Values in a GGUF header: scalars as Python values, long arrays stay in the file until they are used."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, overload

from labkit.checks import visible
from labkit.gguf_file.source import INCOMPLETE, Source, gguf_error
from labkit.units import counted

STRING, ARRAY = 8, 9

SCALARS: dict[int, tuple[str, struct.Struct]] = {
    0: ("uint8", struct.Struct("<B")),
    1: ("int8", struct.Struct("<b")),
    2: ("uint16", struct.Struct("<H")),
    3: ("int16", struct.Struct("<h")),
    4: ("uint32", struct.Struct("<I")),
    5: ("int32", struct.Struct("<i")),
    6: ("float32", struct.Struct("<f")),
    7: ("bool", struct.Struct("<?")),
    10: ("uint64", struct.Struct("<Q")),
    11: ("int64", struct.Struct("<q")),
    12: ("float64", struct.Struct("<d")),
}
"""Value types of fixed size, by their number in the file."""

_LENGTH = struct.Struct("<Q").unpack_from
_MAX_STRING_BYTES = 1 << 30  # llama.cpp's own limit (GGUF_MAX_STRING_LENGTH)


def type_name(number: int) -> str:
    """Return the name of a value type: ``"uint32"``, ``"string"``, ``"array"``."""
    return SCALARS[number][0] if number in SCALARS else {STRING: "string", ARRAY: "array"}[number]


class Window:
    """A part of a file held in memory (``data``, from the offset ``start``), moved forward as a reader needs it."""

    def __init__(self, source: Source, start: int = 0, end: int | None = None) -> None:
        self.source = source
        self.start = start
        self.end = source.size if end is None else end
        self.data = b""
        self._n_bytes = source.window_bytes[0]

    def move(self, offset: int, n_bytes: int = 1) -> None:
        """Hold at least ``n_bytes`` from ``offset``; the caller has checked that the file has them."""
        want = min(max(n_bytes, self._n_bytes), self.end - offset)
        kept = self.data[offset - self.start :] if self.start <= offset <= self.start + len(self.data) else b""
        self.data = kept + self.source.read(offset + len(kept), want - len(kept)) if want > len(kept) else kept
        self.start = offset
        self._n_bytes = min(self._n_bytes * 2, self.source.window_bytes[1])


def walk_strings(window: Window, offset: int, count: int, what: str) -> int:
    """Skip ``count`` strings and return the offset after the last one.

    Only the 8-byte lengths are read: about 0.1 µs per string.
    """
    left = count
    while left:
        if not window.start <= offset <= window.start + len(window.data) - 8:
            if offset + 8 > window.end:
                _find_overrun(window, offset, count - left, what)
            window.move(offset, 8)
        data, began, first = window.data, offset, left
        position = offset - window.start
        try:
            for left in range(first - 1, -1, -1):  # noqa: B007  # used after the loop
                position += 8 + _LENGTH(data, position)[0]
        except (struct.error, OverflowError):
            left += 1  # this string's length is outside the window
        offset = window.start + position
        if offset > window.end or position > len(data) + _MAX_STRING_BYTES // 2:
            _find_overrun(window, began, count - first, what)
    return offset


def _find_overrun(window: Window, offset: int, index: int, what: str) -> None:
    """Walk the window again, slowly, and raise the error for the string that extends too far."""
    name = window.source.name
    while window.start <= offset <= window.start + len(window.data) - 8:
        length = _LENGTH(window.data, offset - window.start)[0]
        remain = window.end - offset - 8
        if length > remain:
            raise gguf_error(name, f"{what}: string {index:,} claims {length:,} bytes, {remain:,} bytes remain", offset)
        if length > _MAX_STRING_BYTES:
            raise gguf_error(name, f"{what}: string {index:,} claims {length:,} bytes, more than 1 GiB", offset)
        offset, index = offset + 8 + length, index + 1
    if offset + 8 > window.end:
        raise gguf_error(name, f"the file ends inside {what}, at string {index:,}", window.end, INCOMPLETE)


class LazyArray(Sequence[Any]):
    """A long array of a header: type and length are known, elements are read on demand.

    It is a sequence: ``len``, indexing, slicing and iterating read what they need from the file, ``read()`` everything.
    ``type`` is the type of its elements (``"string"``, ``"int32"``, …), ``offset`` and ``n_bytes`` their place in the file.
    """

    def __init__(self, source: Source, key: str, number: int, length: int, offset: int, n_bytes: int) -> None:
        self._source, self._number, self._length = source, number, length
        self.key, self.type, self.offset, self.n_bytes = key, type_name(number), offset, n_bytes

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._length)
            if step > 0:
                return tuple(self._elements(start, stop))[::step]
            return tuple(self._elements(stop + 1, start + 1))[::-1][::-step]
        position = index + self._length if index < 0 else index
        if not 0 <= position < self._length:
            raise IndexError(f"{self.key} has {counted(self._length, 'element')}, no element {index:,}")
        return next(self._elements(position, position + 1))

    def __iter__(self) -> Iterator[Any]:
        return self._elements(0, self._length)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyArray) and self._place() == other._place()

    def __hash__(self) -> int:
        return hash(self._place())

    def _place(self) -> tuple[object, ...]:
        """Return the position of the elements: arrays at the same position compare equal without being read."""
        return self._source.name, self._source.size, self.key, self.type, self._length, self.offset, self.n_bytes

    def read(self) -> tuple[Any, ...]:
        """Return every element; invalid UTF-8 in strings becomes U+FFFD."""
        return tuple(self)

    def raw_batches(self) -> Iterator[list[bytes]]:
        """Yield the bytes of the strings of a string array, one window of the file at a time."""
        return self._batches(0, self._length)

    def __repr__(self) -> str:
        return f"<{self._length:,} x {self.type}, {self.n_bytes:,} bytes in the file: read() or a slice reads them>"

    def _elements(self, start: int, stop: int) -> Iterator[Any]:
        if self._number == STRING:
            return (raw.decode("utf-8", "replace") for batch in self._batches(start, stop) for raw in batch)
        return self._numbers(start, stop)

    def _numbers(self, start: int, stop: int) -> Iterator[Any]:
        one = SCALARS[self._number][1]
        at_once = self._source.window_bytes[1] // one.size
        for first in range(start, stop, at_once):
            count = min(stop - first, at_once)
            data = self._source.read(self.offset + first * one.size, count * one.size)
            yield from struct.unpack(f"<{count}{one.format[1:]}", data)

    def _batches(self, start: int, stop: int) -> Iterator[list[bytes]]:
        if start >= stop:
            return
        window = Window(self._source, self.offset, self.offset + self.n_bytes)
        offset = walk_strings(window, self.offset, start, visible(self.key))
        left = stop - start
        while left:
            strings, offset = _cut_strings(window, offset, left)
            yield strings
            left -= len(strings)
            if left:
                window.move(offset, 8)
                window.move(offset, 8 + int(_LENGTH(window.data)[0]))


def _cut_strings(window: Window, offset: int, count: int) -> tuple[list[bytes], int]:
    """Return the strings that are complete in the window, at most ``count``, and the offset after them."""
    data, position = window.data, offset - window.start
    last, strings = position, list[bytes]()
    try:
        for _ in range(count):
            end = position + 8 + _LENGTH(data, position)[0]
            strings.append(data[position + 8 : end])
            last, position = position, end
    except struct.error:
        pass  # the next length is outside the window
    if position > len(data):  # the end of the last string is outside it too
        strings.pop()
        position = last
    return strings, window.start + position
