"""Exercises of 03_inside_gguf."""

import math
import random
import struct

from labkit.course.exercise import Exercise, Inputs, Mistake

Shapes = dict[str, list[int]]

_WORDS = ("general.type", "general.name", "general.author", "über", "了", "a", "llama", "model", "tokenizer.ggml.pre")
_KINDS = ("ffn_up", "ffn_down", "attn_q", "attn_k", "attn_norm")
_SMALL: Shapes = {"token_embd.weight": [4, 20], "blk.0.attn_q.weight": [4, 10], "blk.0.ffn_up.weight": [4, 20]}
_BUNDLED = [[106168320, 5], [28311552, 8.5], [35136, 32]]


def _key_bytes(name: str, value: str, rest: bytes = b"") -> str:
    """Return a key with a value of type 8 in hexadecimal, followed by other bytes."""
    name_bytes, value_bytes = name.encode(), value.encode()
    head = struct.pack("<Q", len(name_bytes)) + name_bytes + struct.pack("<I", 8)
    return (head + struct.pack("<Q", len(value_bytes)) + value_bytes + rest).hex()


def _key(generator: random.Random) -> Inputs:
    value = " ".join(generator.choice(_WORDS) for _ in range(generator.choice((0, 1, 3, 60))))
    return (_key_bytes(generator.choice(_WORDS), value, generator.randbytes(generator.randint(0, 12))),)


def _read(raw: bytes, *, width: str = "<Q", to_the_end: bool = False, code: int = 4) -> list[str]:
    (length,) = struct.unpack_from(width, raw, 0)
    at = 8 + length + code
    (size,) = struct.unpack_from(width, raw, at)
    end = len(raw) if to_the_end else at + 8 + size
    return [raw[8 : 8 + length].decode(errors="replace"), raw[at + 8 : end].decode(errors="replace")]


def _end(generator: random.Random) -> Inputs:
    alignment = generator.choice((32, 32, 64, 8, 4096))
    return generator.randint(1, 10**6) * alignment + generator.choice((0, 0, 1, generator.randrange(alignment))), alignment


def _shapes(generator: random.Random) -> Inputs:
    width = 8 * generator.randint(1, 20)
    shapes = {"token_embd.weight": [width, generator.randint(100, 4000)], "output_norm.weight": [width]}
    for layer in range(generator.randint(1, 4)):
        for kind in _KINDS:
            rows = [] if kind == "attn_norm" else [8 * generator.randint(1, 40)]
            shapes[f"blk.{layer}.{kind}.weight"] = [width, *rows]
    return shapes, generator.choice(("ffn_", "attn_", "blk.0.", "norm", "nothing"))


def _parts(generator: random.Random) -> Inputs:
    bits = generator.sample((2.625, 3.4375, 4.5, 5, 5.5, 6.5625, 8.5, 16, 32), generator.randint(1, 5))
    return ([[generator.choice((generator.randint(1, 1000), generator.randint(10**5, 10**9))), each] for each in bits],)


def _sum(shapes: Shapes, word: str = "") -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if word in name)


EXERCISES = (
    Exercise(
        name="read_key",
        points=3,
        question="a list of the key's name and its value, both as text.",
        examples=(
            ((_key_bytes("general.type", "model"),), ["general.type", "model"]),
            (("0200000000000000c3bc080000000300000000000000e4ba86",), ["ü", "了"]),
            ((_key_bytes("general.name", "Llama", b"\x0c\x00\x00\x00abc"),), ["general.name", "Llama"]),
            ((_key_bytes("general.url", "la" * 200),), ["general.url", "la" * 200]),
            ((_key_bytes("a", ""),), ["a", ""]),
            ((_key_bytes("tokenizer.chat_template", "{{ text }}\n"),), ["tokenizer.chat_template", "{{ text }}\n"]),
        ),
        inputs=_key,
        mistakes=(
            Mistake(
                "Your value goes on to the last byte: what does its length say?",
                lambda text: _read(bytes.fromhex(text), to_the_end=True),
            ),
            Mistake("A length has 8 bytes: what if it is 256 or more?", lambda text: _read(bytes.fromhex(text), width="<B")),
            Mistake("Half of it is missing: return both name and value.", lambda text: _read(bytes.fromhex(text))[1]),
            Mistake("Name first, then value.", lambda text: _read(bytes.fromhex(text))[::-1]),
        ),
        hints=(
            "Step 3 has a table of the fields of a key: only the lengths say where the next field begins.",
            "Mark a key's fields on paper: how many bytes come before its name, and how many between name and value?",
            "Store the position after the name: the code, the second length and the value all count from there.",
        ),
    ),
    Exercise(
        name="unused_bytes",
        points=1,
        question="how many bytes are unused between the end of the table and the data.",
        examples=(((1785664, 32), 0), ((1000, 32), 24), ((1785665, 32), 31), ((100, 64), 28)),
        inputs=_end,
        mistakes=(
            Mistake("What if the table already ends at a multiple?", lambda end, alignment: alignment - end % alignment),
            Mistake(
                "That is how far it is past the last multiple. How far is it to the next one?",
                lambda end, alignment: end % alignment,
            ),
            Mistake(
                "That is where the data begins: how far is it from the end of the table?",
                lambda end, alignment: math.ceil(end / alignment) * alignment,
            ),
        ),
        hints=(
            "Step 6 says where the data begins: at a multiple of the alignment, and never before the end of the table.",
            "Take an alignment of 10 and tables that end at 37 and at 40: where does the data begin in each case?",
            "Step 6 computes data_begin, the first multiple that is not below the end: which distance is the answer?",
        ),
    ),
    Exercise(
        name="share_of",
        points=2,
        question="the percentage of all weights that is in tensors with the word in their name.",
        examples=(
            ((_SMALL, "ffn_"), 40.0),
            ((_SMALL, "blk.0."), 60.0),
            ((_SMALL, "norm"), 0.0),
            (({"output_norm.weight": [2], "blk.0.ffn_up.weight": [4, 1]}, "ffn_"), 66.66666666666667),
            (({"output_norm.weight": [2], "blk.0.ffn_up.weight": [4, 1]}, "norm"), 33.333333333333336),
        ),
        inputs=_shapes,
        mistakes=(
            Mistake("How many per cent is a share of 1?", lambda shapes, word: _sum(shapes, word) / _sum(shapes)),
            Mistake("That is the number of weights: what part of all weights?", _sum),
            Mistake(
                "You count tensors: a large one counts for more.",
                lambda shapes, word: 100 * sum(word in name for name in shapes) / len(shapes),
            ),
            Mistake(
                "How many weights are in a table of 4 by 20?",
                lambda s, word: 100 * sum(sum(s[name]) for name in s if word in name) / sum(map(sum, s.values())),
            ),
            Mistake(
                "The word may be anywhere in the name.",
                lambda s, word: 100 * sum(math.prod(s[name]) for name in s if name.startswith(word)) / _sum(s),
            ),
        ),
        hints=(
            "Step 7 counts weights from shapes: a tensor has as many as the product of its shape.",
            "A share is one sum divided by another: which tensors belong to the first sum, and which to the second?",
            "Count the weights of each tensor: the word decides which counts are in the first sum, not in the second.",
        ),
    ),
    Exercise(
        name="mean_bits",
        points=2,
        question="the average bits per weight; each part has a number of weights, and the bits of each.",
        examples=(
            (([[100, 4.5], [100, 8.5]],), 6.5),
            (([[300, 4], [100, 8]],), 5.0),
            ((_BUNDLED,), 5.743702174853233),
            (([[64, 16]],), 16.0),
        ),
        inputs=_parts,
        mistakes=(
            Mistake(
                "Do a million weights count no more than a hundred?",
                lambda parts: sum(bits for _, bits in parts) / len(parts),
            ),
            Mistake(
                "The answer is in bits, not bytes.",
                lambda parts: sum(n * bits for n, bits in parts) / sum(n for n, _ in parts) / 8,
            ),
            Mistake("That is the total of all bits: how many per weight?", lambda parts: sum(n * bits for n, bits in parts)),
            Mistake("Your answer counts only the largest part.", lambda parts: max(parts)[1]),
        ),
        hints=(
            "Step 8 takes the average of 5, 8.5 and 32 by weights: what does that mean for a part that has few of them?",
            "Take 2 weights of 3 bits and 1 weight of 6 bits: how many bits are that, and how many weights share them?",
            "Add up two totals over all parts, of bits and of weights: what does the formula in step 8 do with such totals?",
        ),
    ),
)
