"""More than 300 malformed files, each with its expected error."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

from labkit.gguf_file.formats import TENSOR_TYPES
from tests.gguf_zoo import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Raw,
    key,
    small,
    text,
)  # fmt: skip

__all__ = ["Hostile", "hostile"]


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One malformed file, and a regular expression that its error must match."""

    name: str
    data: bytes
    expect: str


_HUGE = {"all ones": (1 << 64) - 1, "sign bit": 1 << 63, "2^62": 1 << 62, "2^40": 1 << 40}


def hostile() -> list[Hostile]:
    """Return more than 250 malformed files."""
    groups = (
        _foreign, _versions, _counts, _key_names, _value_types, _texts, _array_lengths, _array_strings,
        _alignments, _tensor_names, _tensor_shapes, _tensor_types, _tensor_rows, _tensor_offsets, _architectures,
    )  # fmt: skip
    return [file for group in groups for file in group()]


def _foreign() -> Iterator[Hostile]:
    beginnings = {
        b"<!DOCTYPE html>\n<html><body>Sign in</body></html>": r"web page",
        b"\n  <html lang='en'>": r"web page",
        b"\xef\xbb\xbf<!doctype HTML>": r"web page",
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": r"XML",
        b'{"error": "Repository not found"}': r"JSON",
        b"Entry not found": r"Entry not found",
        b"Invalid username or password.": r"login",
        b"Access to model x/y is restricted": r"login",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 98362432\n": r"git-LFS pointer.*git lfs pull",
        b"PK\x03\x04" + bytes(60): r"zip archive",
        b"\x80\x02}q\x00.": r"pickle",
        b"\x80\x04\x95": r"pickle",
        b"\x1f\x8b\x08" + bytes(20): r"gzip",
        b"\x28\xb5\x2f\xfd" + bytes(20): r"zstd",
        b"\xfd7zXZ\x00": r"xz archive",
        b"7z\xbc\xaf\x27\x1c": r"7z archive",
        b"BZh91AY": r"bzip2",
        b"\x89HDF\r\n\x1a\n": r"HDF5",
        b"\x93NUMPY\x01\x00": r"NumPy",
        b"%PDF-1.7": r"PDF",
        b"\x7fELF\x02\x01": r"program \(ELF\)",
        b"MZ\x90\x00": r"Windows program",
        b"\x89PNG\r\n": r"PNG",
        b"SQLite format 3\x00": r"SQLite",
        b"#!/bin/sh\n": r"script",
        b"lmgg" + bytes(40): r"older than GGUF.*ggml",
        b"fmgg" + bytes(40): r"older than GGUF.*ggmf",
        b"tjgg" + bytes(40): r"older than GGUF.*ggjt",
        b"algg" + bytes(40): r"LoRA",
        b"FUGG" + bytes(40): r"reversed bytes",
        struct.pack("<Q", 60) + b'{"__metadata__":{}}': r"safetensors",
        bytes(100): r"zero bytes",
        b"G": r"first bytes of a GGUF",
        b"GGU": r"first bytes of a GGUF",
        b'{"schemaVersion":2,"mediaType":"x"}': r"a manifest of Ollama's store.*give the blob",
        b"{{ .System }}": r"a template",
        b"hello": r"not a GGUF: it begins with b'hell'",
        b"\x1b[31mred": r"not a GGUF.*\\x1b",
        b"gguf" + bytes(40): r"not a GGUF: it begins with b'gguf'",
    }
    for index, (data, expect) in enumerate(beginnings.items()):
        yield Hostile(f"foreign {index}", data, expect)


def _versions() -> Iterator[Hostile]:
    for version in (0, 1, 4, 5, 255, 1 << 16 | 3, (1 << 31) - 1, (1 << 32) - 1):
        data = dataclasses.replace(small(), version=version).bytes()
        yield Hostile(f"version {version}", data, rf"unsupported GGUF version {version:,}, 2 or 3 is needed \(at byte 4\)")
    for version in (2, 3):
        data = dataclasses.replace(small(), version=version << 24).bytes()
        yield Hostile(f"big-endian {version}", data, rf"big-endian \(version {version}\)")


def _counts() -> Iterator[Hostile]:
    for label, count in {**_HUGE, "2^32": 1 << 32, "a million": 10**6}.items():
        signed = count - (1 << 64) if count >> 63 else count
        for field, noun, offset in (("n_tensors", "tensors", 8), ("n_keys", "keys", 16)):
            data = dataclasses.replace(small(), **{field: count}).bytes()
            yield Hostile(f"{label} {noun}", data, rf"claims {signed:,} {noun}, [\d,]+ bytes remain \(at byte {offset}\)")
    few = small()
    yield Hostile("one key too many", dataclasses.replace(few, n_keys=len(few.keys) + 1).bytes(), r"tensor 1 of 2")
    yield Hostile("one key too few", dataclasses.replace(few, n_keys=len(few.keys) - 1).bytes(), r"claims \d dimensions")
    yield Hostile("one tensor too many", dataclasses.replace(few, n_tensors=3).bytes(), r"tensor 3 of 3|tensor ''")
    for field, noun in (("n_tensors", "tensors"), ("n_keys", "keys")):
        data = dataclasses.replace(small(), **{field: 70_000}, tail=bytes(3_000_000)).bytes()
        yield Hostile(f"70,000 {noun} in zeros", data, rf"claims 70,000 {noun}, [\d,]+ at most|key 22|tensor")


def _at(index: int, replacement: bytes) -> bytes:
    raw = small()
    raw.keys[index] = replacement
    return raw.bytes()


def _key_names() -> Iterator[Hostile]:
    for index in (0, 7, 20):
        where = rf"key {index + 1} of 21"
        value = struct.pack("<IB", U8, 1)
        for label, length in {**_HUGE, "2^31": 1 << 31}.items():
            data = _at(index, text("general.x", length) + value)
            yield Hostile(f"key {index} name of {label} bytes", data, rf"{where}: its name claims {length:,} bytes")
        yield Hostile(f"key {index} empty", _at(index, text("") + value), rf"{where} has an empty name")
        yield Hostile(f"key {index} zero byte", _at(index, text("a\0b") + value), rf"{where} has a zero byte .*'a\\x00b'")
        yield Hostile(f"key {index} twice", _at(index, text("test.u64") + value), r"duplicate key 'test.u64'")
        long = dataclasses.replace(small(), tail=bytes(70_000))
        long.keys[index] = text("k" * 66_000) + value
        yield Hostile(f"key {index} name of 66,000 bytes", long.bytes(), r"65,535 at most")


def _value_types() -> Iterator[Hostile]:
    for index in (0, 9, 20):
        for number in (13, 14, 99, 1 << 31, (1 << 32) - 1):
            data = _at(index, text("odd.key") + struct.pack("<I", number) + bytes(8))
            yield Hostile(f"key {index} of type {number}", data, rf"key 'odd.key' has the unknown value type {number:,}")
            data = _at(index, text("odd.key") + struct.pack("<IIQ", ARRAY, number, 1) + bytes(8))
            yield Hostile(f"key {index} array of {number}", data, rf"key 'odd.key' has the unknown element type {number:,}")
        data = _at(index, text("odd.key") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQB", U8, 1, 1))
        yield Hostile(f"key {index} nested array", data, r"key 'odd.key' is an array of arrays")


def _texts() -> Iterator[Hostile]:
    for index in (1, 11, 20):
        for label, length in {**_HUGE, "2^31": 1 << 31, "64 KiB": 1 << 16}.items():
            data = _at(index, text("odd.text") + struct.pack("<I", STRING) + text("abc", length))
            yield Hostile(
                f"text {index} of {label}", data, rf"key 'odd.text': its text claims {length:,} bytes, [\d,]+ bytes remain"
            )
    big = dataclasses.replace(small(), tail=bytes(1 << 24))
    big.keys[0] = text("odd.text") + struct.pack("<I", STRING) + text(b"x" * ((1 << 24) + 1))
    yield Hostile("text of 16 MiB and a byte", big.bytes(), r"its text claims 16,777,217 bytes, 16,777,216 at most")


def _array_lengths() -> Iterator[Hostile]:
    for element in (U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, U64, I64, F64):
        for label, length in {**_HUGE, "2^31": 1 << 31}.items():
            data = _at(17, text("odd.array") + struct.pack("<IIQ", ARRAY, element, length) + bytes(64))
            yield Hostile(
                f"array of {element} with {label}", data, rf"key 'odd.array' claims {length:,} elements .*bytes remain"
            )


def _array_strings() -> Iterator[Hostile]:
    for bad in (0, 50, 99):
        for label, length in {**_HUGE, "2^31": 1 << 31}.items():
            words = b"".join(text("word", length if i == bad else None) for i in range(100))
            data = _at(20, text("odd.words") + struct.pack("<IIQ", ARRAY, STRING, 100) + words)
            yield Hostile(f"string {bad} of {label}", data, rf"key 'odd.words': string {bad} claims {length:,} bytes")
    data = _at(20, text("odd.words") + struct.pack("<IIQ", ARRAY, STRING, 105) + b"".join(text("word") for _ in range(100)))
    yield Hostile("more strings than there are", data, r"key 'odd.words'")
    many = dataclasses.replace(small(), tail=bytes(36_000_000))
    many.keys[20] = text("odd.words") + struct.pack("<IIQ", ARRAY, STRING, 4_400_000)
    yield Hostile("4.4 million empty strings", many.bytes(), r"has 4,400,000 strings, 4,194,304 in all are read")


def _alignments() -> Iterator[Hostile]:
    for alignment in (0, 3, 24, 33, (1 << 32) - 1):
        data = _at(2, key("general.alignment", U32, alignment))
        yield Hostile(f"alignment {alignment}", data, rf"'general.alignment' is {alignment:,}, a power of two is needed")
    for number, value, kind in ((U64, 32, "uint64"), (I32, 32, "int32"), (F32, 32.0, "float32"), (STRING, "32", "string")):
        data = _at(2, key("general.alignment", number, value))
        yield Hostile(f"alignment as {kind}", data, rf"'general.alignment' is of type {kind}, uint32 is needed")
    data = _at(2, key("general.alignment", ARRAY, [32], U32))
    yield Hostile("alignment as array", data, r"'general.alignment' is of type array of uint32")
    data = _at(2, key("general.alignment", U32, 1 << 30))
    yield Hostile("alignment of 1 GiB", data, r"the file ends before the tensors' data")


def _tensor(index: int = 1, **changes: Any) -> bytes:
    raw = small()
    raw.tensors[index] = dataclasses.replace(raw.tensors[index], **changes)
    return raw.bytes()


def _tensor_names() -> Iterator[Hostile]:
    for length in (64, 65, 200):
        yield Hostile(f"name of {length}", _tensor(name=b"x" * length), rf"name of {length} bytes, 63 at most")
    yield Hostile("name empty", _tensor(name=b""), r"tensor 2 of 2 .* has an empty name")
    yield Hostile("name with zero byte", _tensor(name=b"a\0b"), r"tensor 2 of 2 .* has a zero byte")
    yield Hostile("name twice", _tensor(name=b"token_embd.weight"), r"duplicate tensor name 'token_embd.weight'")
    yield Hostile(
        "name with colours", _tensor(name=b"\x1b[31mred", type=99), r"tensor '\\x1b\[31mred' has the unknown type 99"
    )
    for label, length in {**_HUGE, "2^31": 1 << 31}.items():
        raw = small()
        entry = raw.tensors[0].entry()
        head = raw.bytes().replace(entry, struct.pack("<Q", length) + entry[8:])
        yield Hostile(f"tensor name of {label}", head, rf"tensor 1 of 2 .*: its name claims {length:,} bytes")


def _tensor_shapes() -> Iterator[Hostile]:
    for n_dims in (5, 6, 255, 1 << 31, (1 << 32) - 1):
        expect = rf"tensor 'output_norm.weight' claims {n_dims:,} dimensions, 4 at most"
        yield Hostile(f"{n_dims} dimensions", _tensor(n_dims=n_dims), expect)
    for shape in ((-1,), (64, -1), (-(1 << 63),), (1 << 62, 4), ((1 << 63) - 1, 2), (1 << 32, 1 << 32), (1 << 21,) * 3):
        yield Hostile(f"shape {shape}", _tensor(shape=shape), r"tensor 'output_norm.weight' has the impossible shape \(")
    for shape in ((65,), (64, 2), (1 << 40,), (1 << 30, 1 << 30)):
        expect = r"the file ends inside the data of tensor 'output_norm.weight', [\d,]+ bytes are missing"
        yield Hostile(f"shape {shape} beyond the end", _tensor(shape=shape), expect)


def _tensor_types() -> Iterator[Hostile]:
    for number in (4, 5, 31, 32, 33, 36, 37, 38):
        yield Hostile(f"removed type {number}", _tensor(type=number), rf"has the removed type {number} \(\w+\)")
    for number in (43, 44, 100, 255, 1 << 31, (1 << 32) - 1):
        yield Hostile(f"unknown type {number}", _tensor(type=number), rf"has the unknown type {number:,}")


def _tensor_rows() -> Iterator[Hostile]:
    for number, kind in TENSOR_TYPES.items():
        if kind.is_quantized:
            expect = rf"has rows of {kind.block_size + 1} weights, {kind.name} needs a multiple of {kind.block_size}"
            yield Hostile(f"odd row of {kind.name}", _tensor(type=number, shape=(kind.block_size + 1,)), expect)
    yield Hostile("quantized scalar", _tensor(type=2, shape=()), r"has rows of 1 weights, Q4_0 needs a multiple of 32")


def _tensor_offsets() -> Iterator[Hostile]:
    named = r"tensor 'output_norm.weight' is at offset"
    for offset in (1, 16, 161, 191):
        yield Hostile(
            f"offset {offset}", _tensor(offset=offset), rf"{named} {offset} of the data, not a multiple of the alignment 32"
        )
    for offset in (0, 32, 128):
        expect = rf"{named} {offset} of the data, so it overlaps tensor 'token_embd.weight'"
        yield Hostile(f"offset {offset}", _tensor(offset=offset), expect)
    for offset in (192, 1 << 20, 1 << 40, 1 << 63, (1 << 64) - 32):
        expect = rf"{named} {offset:,} of the data, so it leaves a gap after tensor 'token_embd.weight'"
        yield Hostile(f"offset {offset}", _tensor(offset=offset), expect)
    expect = r"tensor 'token_embd.weight' is at offset 32 of the data, so it leaves a gap after the beginning"
    yield Hostile("first offset", _tensor(0, offset=32), expect)


def _architectures() -> Iterator[Hostile]:
    yield Hostile("no architecture", _at(0, key("x.y", U8, 1)), r"key 'general.architecture' is missing")
    yield Hostile("empty architecture", _at(0, key("general.architecture", STRING, "")), r"'general.architecture' is empty")
    wrong = ((U32, 1, None), (F32, 1.0, None), (BOOL, True, None), (ARRAY, ["llama"], STRING), (ARRAY, [1], U8))
    for number, value, element in wrong:
        data = _at(0, key("general.architecture", number, value, element))
        yield Hostile(f"architecture as {number} {element}", data, r"key 'general.architecture' is of type \w+")
    yield Hostile("nothing inside", Raw([], []).bytes(), r"key 'general.architecture' is missing")
