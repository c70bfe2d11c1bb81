"""Small random models that llama.cpp can load, as editable parts: keys, tensors, bytes.

A `Parts` holds a file's keys and tensors; a test changes one of them and the rest stays consistent, because offsets are
computed on writing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from labkit.gguf_file import read_header
from labkit.gguf_file.formats import TENSOR_TYPES
from labkit.gguf_file.values import SCALARS, type_name
from tests.gguf_zoo import ARRAY, BOOL, F32, I32, STRING, U32, RawTensor, key, pad

F32_TYPE, F16_TYPE, Q8_0_TYPE = 0, 1, 8


@dataclasses.dataclass
class Parts:
    """Keys as (number, value, element type or None) and tensors as (shape, type, bytes), each by name."""

    keys: dict[str, tuple[int, Any, int | None]]
    tensors: dict[str, tuple[tuple[int, ...], int, bytes]]

    def copy(self) -> Parts:
        return Parts(dict(self.keys), dict(self.tensors))

    def bytes(self) -> bytes:
        import struct

        alignment, offset, entries, data = 32, 0, [], []
        for name, (shape, kind, raw) in self.tensors.items():
            entries.append(RawTensor(name.encode(), shape, kind, offset).entry())
            data.append(pad(raw, alignment))
            offset += len(data[-1])
        keys = [key(name, number, value, element) for name, (number, value, element) in self.keys.items()]
        head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(keys)) + b"".join(keys) + b"".join(entries)
        return pad(head, alignment) + b"".join(data)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path

    def set(self, name: str, value: Any) -> Parts:
        """Return a copy with one key's value changed, its type kept."""
        copy = self.copy()
        number, _, element = copy.keys[name]
        copy.keys[name] = (number, value, element)
        return copy


def read_parts(path: Path) -> Parts:
    """Return a file as parts."""
    header, raw = read_header(path), path.read_bytes()
    numbers = {type_name(number): number for number in (*SCALARS, STRING)}
    keys = {}
    for name, value in header.metadata.items():
        _, _, kind = header.types[name].rpartition("array of ")
        is_array = header.types[name] != kind
        keys[name] = (ARRAY, [*value], numbers[kind]) if is_array else (numbers[kind], value, None)
    tensors = {t.name: (t.shape, t.type.id, raw[t.offset : t.offset + t.n_bytes]) for t in header.tensors}
    return Parts(keys, tensors)


def n_bytes(shape: tuple[int, ...], kind: int) -> int:
    """Return the bytes of a tensor, rows rounded down to whole blocks."""
    size = TENSOR_TYPES[kind]
    total = shape[0] // size.block_size * size.block_bytes if shape else size.block_bytes
    for n in shape[1:]:
        total *= n
    return total


def weights(rng: np.random.Generator, shape: tuple[int, ...], kind: int) -> bytes:
    """Return small random weights in F32, F16 or Q8_0; other types get random bytes."""
    count = int(np.prod(shape))
    values = (rng.standard_normal(count) * 0.1).astype(np.float32)
    if kind == F32_TYPE:
        return values.tobytes()
    if kind == F16_TYPE:
        return values.astype(np.float16).tobytes()
    if kind == Q8_0_TYPE:
        blocks = np.empty(count // 32, dtype=[("d", "<f2"), ("q", "i1", 32)])
        blocks["d"], blocks["q"] = 0.001, rng.integers(-127, 128, (count // 32, 32))
        return blocks.tobytes()
    return rng.bytes(n_bytes(shape, kind))


def sentencepiece(n_vocab: int) -> dict[str, tuple[int, Any, int | None]]:
    """Return the keys of a llama tokenizer: control tokens, 256 byte tokens, then pieces."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    kinds = [2, 3, 3] + [6] * 256
    letters = ["▁", "the", "of", "and", "to", "in", "is", "hello", "world", *"abcdefghijklmnopqrstuvwxyz"]
    tokens += letters + [f"▁w{i}" for i in range(n_vocab - len(tokens) - len(letters))]
    tokens = tokens[:n_vocab]
    kinds += [1] * (n_vocab - len(kinds))
    return {
        "tokenizer.ggml.model": (STRING, "llama", None),
        "tokenizer.ggml.tokens": (ARRAY, tokens, STRING),
        "tokenizer.ggml.scores": (ARRAY, [-float(i) for i in range(n_vocab)], F32),
        "tokenizer.ggml.token_type": (ARRAY, kinds, I32),
        "tokenizer.ggml.bos_token_id": (U32, 1, None),
        "tokenizer.ggml.eos_token_id": (U32, 2, None),
        "tokenizer.ggml.unknown_token_id": (U32, 0, None),
        "tokenizer.ggml.add_bos_token": (BOOL, True, None),
    }


def byte_pairs(n_vocab: int) -> dict[str, tuple[int, Any, int | None]]:
    """Return the keys of a gpt2 tokenizer: 256 bytes as printable characters, merges of them, an end token."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = {byte: chr(byte) for byte in plain}
    stand_ins |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in stand_ins)}
    tokens = [stand_ins[byte] for byte in range(256)]
    pairs = ["h e", "l l", "o r", "t h", "i n", "a n", "Ġ w", "he ll", "or l", "th e"]
    tokens += [pair.replace(" ", "") for pair in pairs]
    tokens += [f"<|extra_{i}|>" for i in range(n_vocab - 1 - len(tokens))] + ["<|end|>"]
    return {
        "tokenizer.ggml.model": (STRING, "gpt2", None),
        "tokenizer.ggml.pre": (STRING, "smollm", None),
        "tokenizer.ggml.tokens": (ARRAY, tokens, STRING),
        "tokenizer.ggml.token_type": (ARRAY, [1] * 266 + [3] * (n_vocab - 266), I32),
        "tokenizer.ggml.merges": (ARRAY, pairs, STRING),
        "tokenizer.ggml.bos_token_id": (U32, n_vocab - 1, None),
        "tokenizer.ggml.eos_token_id": (U32, n_vocab - 1, None),
    }


def llama(
    *, tokenizer: str = "llama", n_vocab: int = 320, n_embd: int = 64, n_layer: int = 2, n_ff: int = 96,
    n_head: int = 4, n_head_kv: int = 2, matrix: int = F16_TYPE, architecture: str = "llama", seed: int = 0,
) -> Parts:  # fmt: skip
    """Return a random model of the llama layout, about 130 KB."""
    rng = np.random.default_rng(seed)
    head = n_embd // n_head
    name = architecture
    keys: dict[str, tuple[int, Any, int | None]] = {
        "general.architecture": (STRING, architecture, None),
        "general.name": (STRING, "tiny", None),
        "general.file_type": (U32, 1, None),
        f"{name}.context_length": (U32, 512, None),
        f"{name}.embedding_length": (U32, n_embd, None),
        f"{name}.block_count": (U32, n_layer, None),
        f"{name}.feed_forward_length": (U32, n_ff, None),
        f"{name}.attention.head_count": (U32, n_head, None),
        f"{name}.attention.head_count_kv": (U32, n_head_kv, None),
        f"{name}.attention.layer_norm_rms_epsilon": (F32, 1e-5, None),
        f"{name}.rope.freq_base": (F32, 10000.0, None),
        f"{name}.rope.dimension_count": (U32, head, None),
        f"{name}.vocab_size": (U32, n_vocab, None),
        **(sentencepiece(n_vocab) if tokenizer == "llama" else byte_pairs(n_vocab)),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_embd, n_vocab), "output_norm.weight": (n_embd,)}
    for layer in range(n_layer):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (n_embd,),
            f"blk.{layer}.attn_q.weight": (n_embd, head * n_head),
            f"blk.{layer}.attn_k.weight": (n_embd, head * n_head_kv),
            f"blk.{layer}.attn_v.weight": (n_embd, head * n_head_kv),
            f"blk.{layer}.attn_output.weight": (head * n_head, n_embd),
            f"blk.{layer}.ffn_norm.weight": (n_embd,),
            f"blk.{layer}.ffn_gate.weight": (n_embd, n_ff),
            f"blk.{layer}.ffn_up.weight": (n_embd, n_ff),
            f"blk.{layer}.ffn_down.weight": (n_ff, n_embd),
        }
    tensors = {}
    for tensor, shape in shapes.items():
        kind = matrix if len(shape) > 1 else F32_TYPE
        tensors[tensor] = (shape, kind, weights(rng, shape, kind))
    return Parts(keys, tensors)
