"""Tiny random models: GGUF files of about 130 KB that load and generate meaningless text in milliseconds.

They are for tests in which the text does not matter: threads, interrupts, stop sequences, templates, misuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>")
MERGES = (
    "t h", "th e", "Ġ a", "Ġ th", "Ġth e", "i n", "e r", "o n", "a n", "r e", "e n", "o r", "Ġ w", "Ġ s", "a t", "i s",
    "o u", "e d", "h e", "Ġ o", "Ġ b", "Ġ c", "l l", "i t", "in g", "Ġ f", "a r", "e s", "an d", "u s", "l e", "s t",
    "a a", "aa aa", "< |", "| >", "i m", "Ã ©", "ð Ł", "Ċ Ċ", "1 2", "Ġ Ġ", "e nd", "o m",
)  # fmt: skip
WORDS = (
    "▁the",
    "▁a",
    "▁",
    "the",
    "in",
    "er",
    "on",
    "an",
    "▁w",
    "▁s",
    "at",
    "▁to",
    "e",
    "t",
    "a",
    "o",
    "n",
    "i",
    "s",
    "r",
    "h",
    "l",
)


def byte_alphabet() -> list[str]:
    """Return the 256 characters for bytes in byte-level vocabularies, in order of the bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (chr(256 + n) for n in range(256))
    return [chr(byte) if byte in plain else next(others) for byte in range(256)]


def write_tiny_model(
    path: Path,
    *,
    seed: int = 0,
    template: str | None = CHATML,
    tokenizer: str = "gpt2",
    specials: Sequence[str] = SPECIALS,
    user_defined: Sequence[str] = (),
    architecture: str = "llama",
    n_ctx_train: int = 4096,
    n_layers: int = 2,
    scale: float = 0.5,
    endless: bool = False,
    keys: Mapping[str, Any] | None = None,
    width: int = 64,
) -> Path:
    """Write a random model and return its path.

    Parameters
    ----------
    template : str or None
        Its chat template; None omits the key.
    tokenizer : str
        "gpt2" (byte-level, no token before a text) or "llama" (SentencePiece, with ``<s>`` before every text).
    specials, user_defined : sequence of str
        Control tokens, and tokens of the type "user defined". The first control token ends a text.
    architecture : str
        "llama", or "gemma3" for sliding-window layers.
    scale : float
        Spread of the weights: a small one makes all tokens about equally likely, 0 always gives the same text.
    endless : bool
        Make control tokens impossible, so that a text ends only at its limit.
    keys : mapping
        More metadata; overrides the default keys.
    """
    writer = gguf.GGUFWriter(path, architecture)
    tokens = _add_tokenizer(writer, tokenizer, list(specials), list(user_defined))
    if template is not None:
        writer.add_chat_template(template)
    n_heads, n_kv, n_ff = 4, 2, 2 * width
    writer.add_name(f"tiny {architecture}")
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(width)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    head = width // n_heads
    if architecture == "gemma3":
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_sliding_window(256)
    else:
        writer.add_rope_dimension_count(head)
    for key, value in (keys or {}).items():
        _add_key(writer, key, value)
    rng = np.random.default_rng(seed)
    for name, shape in _shapes(architecture, len(tokens), width, n_ff, head * n_heads, head * n_kv, n_layers):
        data = np.ones(shape) if len(shape) == 1 else rng.normal(0, scale, shape)
        if endless and name == "token_embd.weight":
            data[-len(specials) :] = 0.0
        writer.add_tensor(name, data.astype(np.float32 if len(shape) == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tiny_encoder(path: Path, architecture: str) -> Path:
    """Write a random model with an encoder, "bert" or "t5", and return its path; neither generates text."""
    writer = gguf.GGUFWriter(path, architecture)
    is_bert = architecture == "bert"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if is_bert else ["<pad>", "</s>", "<unk>"]
    tokens = [*names, "▁the", "▁a", "▁", *map(chr, range(33, 127))]
    writer.add_tokenizer_model(architecture)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types([gguf.TokenType.CONTROL] * len(names) + [gguf.TokenType.NORMAL] * (len(tokens) - len(names)))
    ids = {"bos": 2, "eos": 3, "unk": 1, "sep": 3, "pad": 0} if is_bert else {"eos": 1, "unk": 2, "pad": 0}
    for name, token in ids.items():
        getattr(writer, f"add_{name}_token_id")(token)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-6)
    writer.add_layer_norm_rms_eps(1e-6)
    if is_bert:
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        writer.add_token_type_count(2)
    else:
        writer.add_key_length(16)
        writer.add_value_length(16)
        writer.add_relative_attn_buckets_count(32)
        writer.add_decoder_start_token_id(0)
    rng = np.random.default_rng(0)
    for name, shape in (_bert_shapes if is_bert else _t5_shapes)(len(tokens)).items():
        writer.add_tensor(name, rng.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _bert_shapes(n_vocab: int) -> dict[str, tuple[int, ...]]:
    shapes = {"token_embd": (n_vocab, 64), "position_embd": (256, 64), "token_types": (2, 64)}
    result: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in shapes.items()}
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (64, 64))
    for name, shape in {**square, "ffn_up": (128, 64), "ffn_down": (64, 128)}.items():
        result |= {f"blk.0.{name}.weight": shape, f"blk.0.{name}.bias": shape[:1]}
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        result |= {f"{name}.weight": (64,), f"{name}.bias": (64,)}
    return result


def _t5_shapes(n_vocab: int) -> dict[str, tuple[int, ...]]:
    block = {
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_o"), (64, 64)), "attn_norm": (64,), "attn_rel_b": (32, 4),
        "ffn_norm": (64,), "ffn_up": (128, 64), "ffn_down": (64, 128),
    }  # fmt: skip
    cross = {"cross_attn_norm": (64,), "cross_attn_rel_b": (32, 4), **{f"cross_attn_{n}": (64, 64) for n in "qkvo"}}
    result: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_vocab, 64), "output.weight": (n_vocab, 64)}
    result |= {"enc.output_norm.weight": (64,), "dec.output_norm.weight": (64,)}
    result |= {f"enc.blk.0.{name}.weight": shape for name, shape in block.items()}
    return result | {f"dec.blk.0.{name}.weight": shape for name, shape in {**block, **cross}.items()}


def _add_tokenizer(writer: Any, kind: str, specials: list[str], user_defined: list[str]) -> list[str]:
    writer.add_tokenizer_model(kind)
    if kind == "gpt2":
        pieces = byte_alphabet() + ["".join(merge.split(" ")) for merge in MERGES]
        types = [gguf.TokenType.NORMAL] * len(pieces)
        writer.add_tokenizer_pre("default")
        writer.add_token_merges(list(MERGES))
        first = 0
    else:
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
        types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
        types += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(WORDS)
        specials = [name for name in specials if name not in pieces]
        first = 1
    tokens = pieces + user_defined + specials
    kinds = {"<unk>": gguf.TokenType.UNKNOWN}
    types += [gguf.TokenType.USER_DEFINED] * len(user_defined)
    types += [kinds.get(name, gguf.TokenType.CONTROL) for name in specials]
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(types)
    end = "<|endoftext|>" if "<|endoftext|>" in tokens else "</s>"
    if first:
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    elif end in tokens:
        writer.add_bos_token_id(tokens.index(end))
        writer.add_eos_token_id(tokens.index(end))
    if first:
        writer.add_add_bos_token(True)
    return tokens


def _add_key(writer: Any, key: str, value: Any) -> None:
    for values in writer.kv_data:
        values.pop(key, None)
    whole = writer.add_uint32 if key.endswith("_token_id") else writer.add_int32
    kinds = {bool: writer.add_bool, str: writer.add_string, float: writer.add_float32, int: whole}
    kinds.get(type(value), writer.add_array)(key, value)


def _shapes(
    architecture: str, n_vocab: int, width: int, n_ff: int, n_q: int, n_kv: int, n_layers: int
) -> list[tuple[str, tuple[int, ...]]]:
    head = n_q // 4
    shapes: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (n_vocab, width)), ("output_norm.weight", (width,))]
    for layer in range(n_layers):
        block = {
            "attn_norm": (width,), "attn_q": (n_q, width), "attn_k": (n_kv, width), "attn_v": (n_kv, width),
            "attn_output": (width, n_q), "ffn_norm": (width,), "ffn_gate": (n_ff, width), "ffn_up": (n_ff, width),
            "ffn_down": (width, n_ff),
        }  # fmt: skip
        if architecture == "gemma3":
            block |= {
                "attn_q_norm": (head,),
                "attn_k_norm": (head,),
                "post_attention_norm": (width,),
                "post_ffw_norm": (width,),
            }
        shapes += [(f"blk.{layer}.{name}.weight", shape) for name, shape in block.items()]
    return shapes
