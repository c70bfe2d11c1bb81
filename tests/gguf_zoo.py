"""Small GGUF files for the tests: valid files, and hostile files made from them.

`Raw` gives control of every field, so a test can break exactly one.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def text(value: str | bytes, length: int | None = None) -> bytes:
    """Return a string: its length in 8 bytes (or a wrong length), then its bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def scalar(number: int, value: Any) -> bytes:
    """Return the bytes of a scalar value, without its type number."""
    return text(value) if number == STRING else struct.pack(f"<{_FORMATS[number]}", value)


def key(name: str | bytes, number: int, value: Any, element: int | None = None) -> bytes:
    """Return a key with its value; ``element`` makes it an array."""
    head = text(name) + struct.pack("<I", number)
    if element is None:
        return head + scalar(number, value)
    return head + struct.pack("<IQ", element, len(value)) + b"".join(scalar(element, item) for item in value)


@dataclasses.dataclass
class RawTensor:
    """One entry of the tensor table, with every field as written."""

    name: bytes
    shape: Sequence[int]
    type: int
    offset: int
    data: bytes = b""
    n_dims: int | None = None

    def entry(self) -> bytes:
        n_dims = len(self.shape) if self.n_dims is None else self.n_dims
        return (
            text(self.name)
            + struct.pack("<I", n_dims & 0xFFFFFFFF)
            + b"".join(struct.pack("<Q", n & (1 << 64) - 1) for n in self.shape)
            + struct.pack("<IQ", self.type & 0xFFFFFFFF, self.offset & (1 << 64) - 1)
        )


@dataclasses.dataclass
class Raw:
    """A whole file, with every field as written."""

    keys: list[bytes]
    tensors: list[RawTensor]
    version: int = 3
    magic: bytes = b"GGUF"
    n_tensors: int | None = None
    n_keys: int | None = None
    alignment: int = 32
    tail: bytes = b""

    def bytes(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        head = self.magic + struct.pack("<I", self.version & 0xFFFFFFFF)
        head += struct.pack("<QQ", n_tensors & (1 << 64) - 1, n_keys & (1 << 64) - 1)
        head += b"".join(self.keys) + b"".join(tensor.entry() for tensor in self.tensors)
        data = b"".join(pad(tensor.data, self.alignment) for tensor in self.tensors)
        return (pad(head, self.alignment) if self.tensors else head) + data + self.tail

    def write(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path


def pad(data: bytes, alignment: int = 32) -> bytes:
    """Pad with zeros to a multiple of the alignment."""
    return data + b"\0" * (-len(data) % max(alignment, 1))


def small() -> Raw:
    """Return a valid file of about 1 KiB with every value type, two tensors and no split keys."""
    keys = [
        key("general.architecture", STRING, "llama"),
        key("general.name", STRING, "tiny 🦙"),
        key("general.file_type", U32, 2),
        key("llama.block_count", U32, 1),
        key("llama.embedding_length", U32, 64),
        key("llama.context_length", U32, 128),
        key("llama.attention.head_count", U32, 2),
        key("llama.rope.freq_base", F32, 10000.0),
        key("test.u8", U8, 200),
        key("test.i8", I8, -100),
        key("test.u16", U16, 60000),
        key("test.i16", I16, -30000),
        key("test.i32", I32, -2_000_000_000),
        key("test.bool", BOOL, True),
        key("test.u64", U64, 1 << 63),
        key("test.i64", I64, -(1 << 62)),
        key("test.f64", F64, 0.1),
        key("test.numbers", ARRAY, [3, 1, 2], I32),
        key("test.words", ARRAY, ["a", "", "ö"], STRING),
        key("test.long", ARRAY, list(range(2000)), U16),
        key("tokenizer.ggml.tokens", ARRAY, [f"t{i}" for i in range(100)], STRING),
    ]
    rows = np.arange(64 * 4, dtype=np.float32)
    tensors = [
        RawTensor(b"token_embd.weight", (64, 4), 2, 0, b"\1" * (64 // 32 * 18 * 4)),
        RawTensor(b"output_norm.weight", (64,), 0, 160, rows[:64].tobytes()),
    ]
    return Raw(keys, tensors)


def tiny() -> Raw:
    """Return `small` without its long arrays: 1 KiB, for tests that try every byte."""
    raw = small()
    return dataclasses.replace(raw, keys=raw.keys[:19])
