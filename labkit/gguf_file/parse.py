"""One file's bytes -> its header: versions 2 and 3; every length is checked against the remaining bytes.

References
----------
The format: ggml's ``docs/gguf.md``. The parser refuses whatever llama.cpp refuses: ``ggml/src/gguf.cpp``.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import Any

from labkit.checks import visible
from labkit.gguf_file.cursor import I64, U32, U64, Cursor
from labkit.gguf_file.formats import REMOVED_TENSOR_TYPES, TENSOR_TYPES, TensorType
from labkit.gguf_file.source import INCOMPLETE, Source
from labkit.gguf_file.tensor_table import Entry, TensorInfo, lay_out
from labkit.gguf_file.values import ARRAY, SCALARS, STRING, LazyArray, type_name, walk_strings
from labkit.units import round_up

# Limits far above any real model (thousands of tensors, dozens of keys) bound the cost of a hostile file.
_MAX_KEYS, _MAX_TENSORS = 1 << 13, 1 << 16
_MAX_KEY_BYTES = (1 << 16) - 1  # the specification's limit
_MAX_TEXT_BYTES = 1 << 24  # one string value; a chat template has about 10 KiB
_MAX_ARRAY_STRINGS = 1 << 22  # strings in all arrays together; a 262k vocabulary with its merges has 0.8 million
_MAX_ARRAY = 1 << 30  # llama.cpp's own limit (GGUF_MAX_ARRAY_ELEMENTS)
_MAX_NAME_BYTES = 63  # GGML_MAX_NAME with its final zero
_MAX_DIMS = 4

_EAGER_NUMBERS, _EAGER_STRINGS = 1024, 64  # arrays up to this length are read at once, as tuples (per-layer counts, tags)
_EAGER_BYTES = 1 << 20  # per file


@dataclasses.dataclass(frozen=True)
class Part:
    """The header of one file."""

    source: Source
    version: int
    alignment: int
    metadata: dict[str, Any]
    types: dict[str, str]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    warnings: tuple[str, ...]


def parse(source: Source, part: int = 0) -> Part:
    """Read one file's header; an error names the section, the key or tensor, and the byte."""
    return _Parser(source, part).parse()


class _Parser(Cursor):
    """Read the sections in order: counts, keys and values, tensor table."""

    def __init__(self, source: Source, part: int) -> None:
        super().__init__(source)
        self.part = part
        self.eager_bytes = _EAGER_BYTES
        self.array_strings = _MAX_ARRAY_STRINGS

    def parse(self) -> Part:
        version, n_tensors, n_keys = self._counts()
        metadata: dict[str, Any] = {}
        types: dict[str, str] = {}
        for index in range(n_keys):
            self._key_value(index, n_keys, metadata, types)
        alignment = self._alignment(metadata, types)
        entries = [self._tensor(index, n_tensors) for index in range(n_tensors)]
        data_offset = self._data_offset(alignment) if entries else self.position
        tensors = lay_out(self, entries, data_offset, alignment, self.part)
        return Part(self.source, version, alignment, metadata, types, tensors, data_offset, tuple(self.warnings))

    def _counts(self) -> tuple[int, int, int]:
        """Read the magic, the version and the two counts."""
        first = self.source.read(0, min(self.source.size, 512))
        if first[:4] != b"GGUF":
            from labkit.gguf_file.other_formats import describe_foreign

            what, advice = describe_foreign(first)
            self.fail(f"this is {what}", 0, advice)
        self.take(4)
        version = self.number(U32)
        self._check_version(version)
        n_tensors = self._count("tensors", _MAX_TENSORS, 8 + 4 + 4 + 8)
        n_keys = self._count("keys", _MAX_KEYS, 8 + 1 + 4 + 1)
        return version, n_tensors, n_keys

    def _check_version(self, version: int) -> None:
        if version in (2, 3):
            return
        if version and version & 0xFFFF == 0:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            problem = f"this GGUF is big-endian (version {swapped}), unusable on this machine"
            self.fail(problem, 4, "convert the model again here")
        self.fail(f"unsupported GGUF version {version:,}, 2 or 3 is needed", 4, "convert or fetch the model again")

    def _count(self, noun: str, limit: int, least_bytes: int) -> int:
        start = self.position
        count: int = self.number(I64)
        if count < 0 or count * least_bytes > self.source.size:
            self.fail(f"the header claims {count:,} {noun}, {self.remain():,} bytes remain", start)
        if count > limit:
            self.fail(f"the header claims {count:,} {noun}, {limit:,} at most are read", start)
        return count

    def _key_value(self, index: int, n_keys: int, metadata: dict[str, Any], types: dict[str, str]) -> None:
        self.section = f"key {index + 1} of {n_keys}"
        start = self.position
        raw = self.raw_string(_MAX_KEY_BYTES, "its name")
        key = self.text(raw, f"the name of {self.section}")
        if not key:
            self.fail(f"{self.section} has an empty name", start)
        if "\0" in key:  # llama.cpp would end the name there
            self.fail(f"{self.section} has a zero byte in its name '{visible(key)}'", start)
        if key in metadata:
            self.fail(f"duplicate key '{visible(key)}' ({self.section})", start)
        self.section = f"key '{visible(key)}'"
        number = self._value_type("value type")
        if number == ARRAY:
            element = self._value_type("element type")
            types[key] = f"array of {type_name(element)}"
            metadata[key] = self._array(key, element)
        else:
            types[key] = type_name(number)
            metadata[key] = self._scalar(number)

    def _value_type(self, what: str) -> int:
        number: int = self.number(U32)
        if number == ARRAY and what == "element type":
            self.fail(f"{self.section} is an array of arrays, which GGUF does not support", self.position - 4)
        if number not in SCALARS and number not in (STRING, ARRAY):
            self.fail(f"{self.section} has the unknown {what} {number:,}, 0 to 12 are known", self.position - 4)
        return number

    def _scalar(self, number: int) -> Any:
        if number == STRING:
            return self.text(self.raw_string(_MAX_TEXT_BYTES, "its text"), self.section)
        return self.number(SCALARS[number][1])

    def _array(self, key: str, element: int) -> Any:
        start = self.position
        length: int = self.number(U64)
        size = 8 if element == STRING else SCALARS[element][1].size
        if length * size > self.remain() or length > _MAX_ARRAY:
            least = "at least " if element == STRING else ""
            self.fail(
                f"{self.section} claims {length:,} elements ({least}{length * size:,} bytes), "
                f"{self.remain():,} bytes remain",
                start,
            )
        offset = self.position
        self.position = self._skip(element, length, offset + length * size, start)
        array = LazyArray(self.source, key, element, length, offset, self.position - offset)
        if length > (_EAGER_STRINGS if element == STRING else _EAGER_NUMBERS) or array.n_bytes > self.eager_bytes:
            return array
        self.eager_bytes -= array.n_bytes
        return self._read_now(element, length, offset)

    def _skip(self, element: int, length: int, end: int, start: int) -> int:
        if element != STRING:
            return end
        self.array_strings -= length
        if self.array_strings < 0:
            self.fail(f"{self.section} has {length:,} strings, {_MAX_ARRAY_STRINGS:,} in all are read", start)
        return walk_strings(self.window, self.position, length, self.section)

    def _read_now(self, element: int, length: int, offset: int) -> tuple[Any, ...]:
        end, self.position = self.position, offset
        if element == STRING:
            values = tuple(self.text(self.raw_string(_EAGER_BYTES, "a string"), self.section) for _ in range(length))
        else:
            one = SCALARS[element][1]
            values = struct.unpack(f"<{length}{one.format[1:]}", self.take(length * one.size))
        self.position = end
        return values

    def _alignment(self, metadata: dict[str, Any], types: dict[str, str]) -> int:
        alignment = metadata.get("general.alignment", 32)
        kind = types.get("general.alignment", "uint32")
        if kind != "uint32":
            self.fail(f"key 'general.alignment' is of type {kind}, uint32 is needed")
        if alignment == 0 or alignment & (alignment - 1):
            self.fail(f"key 'general.alignment' is {alignment:,}, a power of two is needed")
        return int(alignment)

    def _tensor(self, index: int, n_tensors: int) -> Entry:
        """Read one entry of the tensor table: name, shape, type, offset in the data."""
        self.section = f"tensor {index + 1} of {n_tensors} in the tensor table"
        start = self.position
        name = self._tensor_name(start)
        self.section = f"tensor '{visible(name)}'"
        n_dims: int = self.number(U32)
        if n_dims > _MAX_DIMS:
            self.fail(f"{self.section} claims {n_dims:,} dimensions, {_MAX_DIMS} at most exist", self.position - 4)
        shape = struct.unpack(f"<{n_dims}q", self.take(8 * n_dims))
        if any(n < 0 for n in shape) or math.prod(shape) >= 1 << 63:
            self.fail(f"{self.section} has the impossible shape {shape}", self.position - 8 * n_dims)
        kind = self._tensor_type(self.number(U32))
        row = shape[0] if shape else 1
        if row % kind.block_size:
            self.fail(f"{self.section} has rows of {row:,} weights, {kind.name} needs a multiple of {kind.block_size}")
        offset: int = self.number(U64)
        return name, shape, kind, offset

    def _tensor_name(self, start: int) -> str:
        raw = self.raw_string(_MAX_KEY_BYTES, "its name")
        name = self.text(raw, f"the name of {self.section}")
        if len(raw) > _MAX_NAME_BYTES:
            self.fail(f"{self.section} has a name of {len(raw)} bytes, {_MAX_NAME_BYTES} at most are allowed", start)
        if not name or "\0" in name:
            self.fail(f"{self.section} has {'a zero byte in its' if name else 'an empty'} name", start)
        return name

    def _tensor_type(self, number: int) -> TensorType:
        kind = TENSOR_TYPES.get(number)
        if kind is None:
            removed = REMOVED_TENSOR_TYPES.get(number)
            what = f"the removed type {number} ({removed})" if removed else f"the unknown type {number:,}"
            advice = "fetch a newer file" if removed else "made for a newer llama.cpp? fetch another quantization"
            self.fail(f"{self.section} has {what}", self.position - 4, f"{advice}, or quantize the model again")
        return kind

    def _data_offset(self, alignment: int) -> int:
        offset = round_up(self.position, alignment)
        if offset > self.source.size:
            self.fail("the file ends before the tensors' data", self.source.size, INCOMPLETE)
        return offset
