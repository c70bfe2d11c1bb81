"""Mutations of a small real model: one to three changes to keys, tensors or bytes, each with a description."""

from __future__ import annotations

import random
import struct
from typing import Any

from labkit.gguf_file.formats import TENSOR_TYPES
from tests.gguf_models import Parts, n_bytes
from tests.gguf_zoo import ARRAY, BOOL, F32, F64, I8, I16, I32, I64, STRING, U8, U16, U32, U64

INTEGERS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 33, 63, 64, 65, 96, 127, 128, 255, 256, 320, 321, 511, 512, 513, 1023, 1024,
            1025, 4096, 65535, 65536, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1)  # fmt: skip
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-30,
    1e-45,
    1e30,
    3.4e38,
    -3.4e38,
    float("inf"),
    float("-inf"),
    float("nan"),
    0.5,
    2.0,
    -1e-5,
)
TEXTS = ("", "llama", "gpt2", "bert", "t5", "rwkv", "none", "no_vocab", "plamo2", "test", "x", "default", "smollm", "llama3",
         "llama-bpe", "mamba", "qwen2", "gemma3", "linear", "yarn", "longrope", "\x1b[31m", "{{", "a" * 5000)  # fmt: skip
EXTRA = (
    ("attention.key_length", U32), ("attention.value_length", U32), ("attention.key_length_mla", U32),
    ("attention.sliding_window", U32), ("expert_count", U32), ("expert_used_count", U32), ("expert_group_count", U32),
    ("expert_group_used_count", U32), ("rope.scaling.factor", F32), ("rope.scaling.type", STRING),
    ("rope.scaling.original_context_length", U32), ("rope.scaling.attn_factor", F32), ("rope.scale_linear", F32),
    ("rope.dimension_count_swa", U32), ("attention.clamp_kqv", F32), ("attention.max_alibi_bias", F32),
    ("attention.causal", BOOL), ("nextn_predict_layers", U32), ("pooling_type", U32), ("attention.scale", F32),
    ("logit_scale", F32), ("residual_scale", F32), ("embedding_scale", F32), ("embedding_length_out", U32),
    ("attention.layer_norm_epsilon", F32), ("token_shift_count", U32), ("vocab_size", U32), ("decoder_start_token_id", U32),
    ("rope.dimension_sections", ARRAY), ("classifier.output_labels", ARRAY),
    ("attention.temperature_length", U32), ("attention.temperature_scale", F32), ("wkv.head_size", U32),
    ("ssm.inner_size", U32),
)  # fmt: skip
EXTRA_TOKENIZER = (
    ("bos_token_id", U32), ("eos_token_id", U32), ("eot_token_id", U32), ("unknown_token_id", U32),
    ("padding_token_id", U32), ("seperator_token_id", U32), ("mask_token_id", U32),
    ("add_bos_token", BOOL), ("add_eos_token", BOOL),
    ("add_sep_token", BOOL), ("add_space_prefix", BOOL), ("remove_extra_whitespaces", BOOL), ("pre", STRING),
    ("token_type_count", U32), ("eom_token_id", U32), ("fim_pre_token_id", U32), ("suppress_tokens", ARRAY),
    ("normalizer.lowercase", BOOL),
)  # fmt: skip
_RANGES = {U8: 8, I8: 8, U16: 16, I16: 16, U32: 32, I32: 32, U64: 64, I64: 64}


def mutate(parts: Parts, rng: random.Random) -> tuple[str, bytes]:
    """Return a description of the changes, and the bytes of the changed file."""
    changed = parts.copy()
    count = rng.choice((1, 1, 1, 1, 2, 3))
    names = [rng.choices(_MUTATIONS, _WEIGHTS)[0](changed, rng) for _ in range(count)]
    raw = changed.bytes()
    if rng.random() < 0.08:
        raw, name = _flip(raw, rng)
        names.append(name)
    return "; ".join(names), raw


def _value(number: int, rng: random.Random) -> Any:
    if number in _RANGES:
        bits = _RANGES[number]
        value = rng.choice(INTEGERS) if rng.random() < 0.85 else rng.getrandbits(bits)
        value &= (1 << bits) - 1
        return value - (1 << bits) if number in (I8, I16, I32, I64) and value >> (bits - 1) else value
    if number in (F32, F64):
        return rng.choice(FLOATS) if rng.random() < 0.8 else rng.uniform(-100, 100)
    return rng.random() < 0.5 if number == BOOL else rng.choice(TEXTS)


def _change_value(parts: Parts, rng: random.Random) -> str:
    name = rng.choice([key for key, (number, _, _) in parts.keys.items() if number != ARRAY])
    number = parts.keys[name][0]
    value = _value(number, rng)
    parts.keys[name] = (number, value, None)
    return f"{name}={str(value)[:40]!r}"


def _change_type(parts: Parts, rng: random.Random) -> str:
    name = rng.choice(list(parts.keys))
    number = rng.choice((U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, U64, I64, F64))
    parts.keys[name] = (number, _value(number, rng), None)
    return f"{name} of type {number}={str(parts.keys[name][1])[:40]!r}"


def _make_array(parts: Parts, rng: random.Random) -> str:
    """Turn a key into an array: per-layer values, of the right length or not."""
    name = rng.choice(list(parts.keys))
    number = rng.choice((U32, I32, F32, STRING, BOOL, U8, U64))
    length = rng.choice((0, 1, 2, 2, 2, 3, 4, 100))
    parts.keys[name] = (ARRAY, [_value(number, rng) for _ in range(length)], number)
    return f"{name}=array of {number}: {str(parts.keys[name][1])[:60]}"


def _add_key(parts: Parts, rng: random.Random) -> str:
    if rng.random() < 0.3:
        prefix = "tokenizer.ggml"
        suffix, number = rng.choice(EXTRA_TOKENIZER)
    else:
        prefix = str(parts.keys.get("general.architecture", (0, "llama", 0))[1])[:60]
        suffix, number = rng.choice(EXTRA)
    if number == ARRAY:
        element = STRING if "labels" in suffix else I32
        value: Any = [_value(element, rng) for _ in range(rng.choice((0, 1, 2, 4, 5)))]
        parts.keys[f"{prefix}.{suffix}"] = (ARRAY, value, element)
    else:
        parts.keys[f"{prefix}.{suffix}"] = (number, _value(number, rng), None)
    return f"add {suffix}={str(parts.keys[f'{prefix}.{suffix}'][1])[:40]!r}"


def _drop_key(parts: Parts, rng: random.Random) -> str:
    name = rng.choice(list(parts.keys))
    del parts.keys[name]
    return f"drop {name}"


def _change_array(parts: Parts, rng: random.Random) -> str:
    """Change elements of an array: duplicate, empty, truncate, swap, insert a zero byte."""
    names = [key for key, (number, value, _) in parts.keys.items() if number == ARRAY and value]
    if not names:
        return "no array"
    name = rng.choice(names)
    number, value, element = parts.keys[name]
    assert element is not None
    values = list(value)
    what = rng.choice(("duplicate", "value", "value", "cut", "grow", "shuffle", "several", "empty"))
    index = rng.randrange(len(values))
    if what == "duplicate":
        values[index] = rng.choice(values)
    elif what == "value":
        odd = rng.choice(
            ("", "\0", "a\0b", "▁", " ", "\n", "<0x0A>", "<|im_end|>", "\x80", "x" * 300, "a b", "a  b c", " a")
        )
        values[index] = odd if element == STRING else _value(element, rng)
    elif what == "cut":
        values = values[:index]
    elif what == "grow":
        values += [f"new{i}" if element == STRING else _value(element, rng) for i in range(rng.choice((1, 100)))]
    elif what == "shuffle":
        rng.shuffle(values)
    elif what == "several":
        for _ in range(rng.choice((5, 50))):
            values[rng.randrange(len(values))] = rng.choice(("", "a\0", "q")) if element == STRING else _value(element, rng)
    else:
        values = []
    parts.keys[name] = (number, values, element)
    return f"{name} {what} at {index}"


def _retype_tensor(parts: Parts, rng: random.Random) -> str:
    name = rng.choice(list(parts.tensors))
    shape, _, _ = parts.tensors[name]
    kind = rng.choice(list(TENSOR_TYPES))
    parts.tensors[name] = (shape, kind, rng.randbytes(n_bytes(shape, kind)))
    return f"{name} as {TENSOR_TYPES[kind].name}"


def _retype_all(parts: Parts, rng: random.Random) -> str:
    """Change the type of every matrix, or of every tensor, as another quantization would."""
    kind = rng.choice(list(TENSOR_TYPES))
    every = rng.random() < 0.2
    for name, (shape, _, _) in parts.tensors.items():
        if every or len(shape) > 1:
            parts.tensors[name] = (shape, kind, rng.randbytes(n_bytes(shape, kind)))
    return f"{'all' if every else 'matrices'} as {TENSOR_TYPES[kind].name}"


def _reshape(parts: Parts, rng: random.Random) -> str:
    name = rng.choice(list(parts.tensors))
    shape, kind, _ = parts.tensors[name]
    dims = list(shape)
    what = rng.randrange(6)
    if what == 0 and dims:
        dims[rng.randrange(len(dims))] = rng.choice((0, 1, 2, 32, 64, 65, 128, 256, 320, 512))
    elif what == 1:
        dims = dims[::-1]
    elif what == 2 and len(dims) < 4:
        dims.append(rng.choice((1, 1, 2, 0)))
    elif what == 3 and dims:
        dims.pop()
    elif what == 4 and len(dims) < 4:
        dims.insert(0, rng.choice((1, 2, 32)))
    else:
        dims = [n * 2 for n in dims]
    new = tuple(dims)
    parts.tensors[name] = (new, kind, rng.randbytes(min(n_bytes(new, kind), 1 << 22)))
    return f"{name} {shape} -> {new}"


def _rename(parts: Parts, rng: random.Random) -> str:
    """Drop, rename or duplicate a tensor; keep the order."""
    name = rng.choice(list(parts.tensors))
    entry = parts.tensors.pop(name)
    what = rng.randrange(4)
    extra = rng.choice(("output.weight", "rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.attn_q_norm.weight", "blk.9.x",
                        "blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_exps.weight", "token_types.weight", "output.bias",
                        "blk.0.attn_output.bias", "blk.1.ffn_up.bias", "blk.0.attn_q.scale",
                        "token_embd.scale"))  # fmt: skip
    if what == 1:
        parts.tensors[extra] = entry
    elif what > 1:
        parts.tensors[name] = entry
        shape, kind, raw = rng.choice(list(parts.tensors.values()))
        parts.tensors[extra] = (shape, kind, raw)
    return f"{('drop', 'rename', 'add', 'add')[what]} {name} {extra}"


def _data(parts: Parts, rng: random.Random) -> str:
    name = rng.choice(list(parts.tensors))
    shape, kind, raw = parts.tensors[name]
    fill = rng.choice((b"\xff", b"\x7f", b"\x00", b"\x7f\x80", b"\xff\x7f"))
    new = (fill * len(raw))[: len(raw)] if rng.random() < 0.5 else rng.randbytes(len(raw))
    parts.tensors[name] = (shape, kind, new)
    return f"{name} data {fill!r}"


def _flip(raw: bytes, rng: random.Random) -> tuple[bytes, str]:
    data = bytearray(raw)
    where = []
    for _ in range(rng.choice((1, 1, 2, 8))):
        position = rng.randrange(min(len(data), rng.choice((64, 2000, 20000, len(data)))))
        data[position] = rng.choice((0, 1, 255, 128, data[position] ^ 1 << rng.randrange(8)))
        where.append(position)
    if rng.random() < 0.2:
        data = data[: rng.randrange(1, len(data))]
    return bytes(data), f"bytes {where}"


_MUTATIONS = (_change_value, _change_type, _make_array, _add_key, _drop_key, _change_array, _retype_tensor, _retype_all,
              _reshape, _rename, _data)  # fmt: skip
_WEIGHTS = (30, 8, 8, 14, 5, 12, 10, 3, 8, 6, 4)


def damage(raw: bytes, rng: random.Random) -> bytes:
    """Return a file damaged at random places: numbers overwritten, parts cut, duplicated or moved."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 3, 10))):
        position = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 600))
        what = rng.randrange(6)
        if what == 0:
            data[position] = rng.randrange(256)
        elif what == 1:
            value = rng.choice((0, 1, 64, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1))
            data[position : position + 8] = struct.pack("<Q", value)
        elif what == 2:
            data[position : position + rng.choice((1, 4, 8, 100))] = b""
        elif what == 3:
            data[position:position] = data[position : position + rng.choice((1, 8, 100))]
        elif what == 4:
            data[position : position + 4] = struct.pack("<I", rng.choice((0, 3, 8, 9, 13, 99, (1 << 32) - 1)))
        elif position:
            del data[position:]
        data = data or bytearray(b"GGUF")
    return bytes(data)
