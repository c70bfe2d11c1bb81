"""Preflight of the hyperparameters: the assertions in llama.cpp's ``llama_model_base::load_hparams`` and its graphs.

llama.cpp itself refuses a key of the wrong type, with a reason, so only values of the expected type are checked here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

from labkit.checks import visible
from labkit.gguf_file.header import Header
from labkit.gguf_file.kinds import name_kind
from labkit.gguf_file.preflight.architectures import (
    EQUAL_HEADS,
    FULL_ROTATION,
    LATENT,
    WITH_SECTIONS,
    WITHOUT_ROTATION,
)
from labkit.gguf_file.source import gguf_error
from labkit.system.engine_library import engine_knows
from labkit.units import counted

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
_MAX_STREAMS = 64  # of hidden states as wide as the model, "hyper-connections"; models have 4
_MAX_CONTEXT = 1 << 27  # llama-cpp-python's tokenizer allocates 4 bytes per position: 512 MiB here
_ODD_CONTEXT = 1 << 24  # no model was trained on more than about 10 million tokens
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_EPSILONS = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")
_ENCODERS = ("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert",
             "t5encoder", "gemma-embedding", "llama-embed")  # fmt: skip
_CONVERT = "fetch or convert the model again"


def refuse(header: Header, problem: str, advice: str = _CONVERT, effect: str = "abort the process") -> NoReturn:
    """Raise the error for a file that would abort the process in llama.cpp, or have the given effect."""
    raise gguf_error(header.source, f"{problem}, which would {effect} in llama.cpp", None, advice)


def uint(header: Header, name: str, default: int | None = None) -> int | None:
    """Return an architecture's key where it has the type that llama.cpp expects, else the default."""
    key = f"{header.architecture}.{name}"
    return int(header.metadata[key]) if header.types.get(key) == "uint32" else default


def per_layer(header: Header, name: str) -> tuple[int, ...]:
    """Return a key that holds one number for all layers or one per layer; empty where missing or of another type."""
    key = f"{header.architecture}.{name}"
    kind = header.types.get(key)
    if kind == "uint32":
        return (int(header.metadata[key]),)
    if kind in ("array of uint32", "array of int32", "array of bool"):
        return tuple(int(value) & 0xFFFFFFFF for value in header.metadata[key][: _MAX_LAYERS + 1])
    return ()


def check_kind(header: Header) -> tuple[str, ...]:
    """Refuse a file that is not a language model, or that needs a newer or another engine; name what it is."""
    kind = name_kind(header.architecture, header.metadata, {tensor.name for tensor in header.tensors})
    strange = not engine_knows(header.architecture)
    unknown = f"the installed llama.cpp does not know the architecture '{visible(header.architecture)}'"
    if kind is not None:
        problem = f"this is {visible(kind[0], 200)}, not a model that llama.cpp can load alone"
        problem += f" ({unknown}: another program's, or newer)" if strange else ""
        raise gguf_error(header.source, problem, None, kind[1])
    if strange:
        advice = "a model newer than it? update llama-cpp-python; or use the program that the file was made for"
        raise gguf_error(header.source, unknown, None, advice)
    return ()


def check_layers(header: Header) -> tuple[str, ...]:
    """Refuse a layer count beyond llama.cpp's limit; warn about an encoder."""
    layers = uint(header, "block_count")
    if layers is not None and not 0 < layers <= _MAX_LAYERS:
        refuse(header, f"key '{header.architecture}.block_count' is {layers:,}, 1 to {_MAX_LAYERS} are possible")
    nextn = uint(header, "nextn_predict_layers", 0) or 0
    if layers is not None and nextn >= layers:
        refuse(header, f"key '{header.architecture}.nextn_predict_layers' is {nextn:,} of {layers} layers")
    if header.architecture in _ENCODERS:
        return (f"{header.architecture} is an encoder: it computes embeddings and does not generate text",)
    return ()


def check_output_length(header: Header) -> tuple[str, ...]:
    """Refuse a length of output embeddings that no tensor gives: llama.cpp reserves that much for each token.

    DeepSeek 4 gives a small multiple of its width; others have a tensor of this length.
    """
    length, width = uint(header, "embedding_length_out"), uint(header, "embedding_length")
    if not length or not width or (length % width == 0 and length <= _MAX_STREAMS * width):
        return ()
    if not any(length in tensor.shape for tensor in header.tensors):
        key = f"{header.architecture}.embedding_length_out"
        refuse(header, f"key '{key}' is {length:,}, but no tensor has this length", effect="read or reserve too much memory")
    return ()


def check_experts(header: Header) -> tuple[str, ...]:
    """Refuse inconsistent expert counts."""
    experts, used = uint(header, "expert_count", 0) or 0, max(per_layer(header, "expert_used_count"), default=0)
    groups, groups_used = uint(header, "expert_group_count", 0) or 0, uint(header, "expert_group_used_count", 0) or 0
    if header.architecture.startswith("hunyuan") and experts <= 1:
        return ()  # llama.cpp treats one expert as none there
    prefix = f"{header.architecture}.expert"
    if experts > _MAX_EXPERTS:
        refuse(header, f"key '{prefix}_count' is {experts:,}, {_MAX_EXPERTS:,} at most are possible")
    if used > experts or (experts and not used):
        refuse(header, f"key '{prefix}_used_count' is {used:,} of {experts:,} experts")
    if groups and groups >= experts:
        refuse(header, f"key '{prefix}_group_count' is {groups:,} for {experts:,} experts")
    if groups > 1 and (experts % groups or not 0 < groups_used < groups):
        refuse(header, f"{experts:,} experts in {groups:,} groups of which {groups_used:,} are used")
    return ()


def check_numbers(header: Header) -> tuple[str, ...]:
    """Refuse NaN and infinity where llama.cpp computes with the number, and negative epsilons."""
    for key, value in header.metadata.items():
        if not isinstance(value, float) or not key.startswith(f"{header.architecture}."):
            continue
        bound = "clamp" in key or "limit" in key or "bound" in key  # infinity means "no bound" there
        if math.isnan(value) or (math.isinf(value) and not bound):
            effect = "abort the process" if key.endswith(_EPSILONS) else "make every result NaN"
            refuse(header, f"key '{visible(key)}' is {value}, a finite number is needed", effect=effect)
        if key.endswith(_EPSILONS) and value < 0:
            refuse(header, f"key '{visible(key)}' is {value:g}, zero or more is needed")
    return ()


def check_rope(header: Header) -> tuple[str, ...]:
    """Refuse rotary embeddings that llama.cpp does not know or that do not fit a head."""
    kind = header.hparam("rope.scaling.type")
    if isinstance(kind, str) and kind not in _ROPE_SCALINGS:
        known = ", ".join(_ROPE_SCALINGS)
        refuse(header, f"key '{header.architecture}.rope.scaling.type' is '{visible(kind)}', known are {known}")
    for suffix in ("", "_swa"):
        _check_rotation(header, suffix)
    _check_sections(header)
    return ()


def _check_sections(header: Header) -> None:
    """Refuse sections that the rotated dimensions cannot have: ``ggml_mrope_cache_init`` asserts it in the first pass."""
    sections = per_layer(header, "rope.dimension_sections")
    most = uint(header, "rope.dimension_count", head_length(header))
    if most is None or not sections:
        return
    used = any(sections) or header.architecture in WITH_SECTIONS
    if used and (not any(sections[:3]) or sum(sections) * 4 // len(sections) > most):
        key = f"{header.architecture}.rope.dimension_sections"
        refuse(header, f"key '{key}' is {[*sections]}, sizes that add up to 1 to {most:,} are needed")


def _check_rotation(header: Header, suffix: str) -> None:
    """Refuse a number of rotated dimensions that does not fit the head or the architecture."""
    name = f"rope.dimension_count{suffix}"
    n_rot, head = uint(header, name), head_length(header, suffix)
    if n_rot is None or head is None or (n_rot == 0 and header.architecture in WITHOUT_ROTATION):
        return
    if not 0 < n_rot <= head or n_rot % 2:
        refuse(
            header, f"key '{header.architecture}.{name}' is {n_rot:,}, an even number up to the head's {head:,} is needed"
        )
    if header.architecture in FULL_ROTATION and n_rot != head and not suffix and not uint(header, f"{name}_swa"):
        refuse(header, f"key '{header.architecture}.{name}' is {n_rot:,}, {header.architecture} rotates all {head:,}")


def head_length(header: Header, suffix: str = "", kind: str = "key") -> int | None:
    """Return the length of a key (or value) head; None where no single number determines it."""
    given = uint(header, f"attention.{kind}_length{suffix}") or uint(header, f"attention.{kind}_length")
    heads, width = per_layer(header, "attention.head_count"), uint(header, "embedding_length")
    if given is not None:
        return given
    return width // heads[0] if heads and heads[0] and min(heads) == max(heads) and width else None


def check_attention(header: Header) -> tuple[str, ...]:
    """Refuse key and value heads that do not match, and a window too large for any memory."""
    key, value = head_length(header), head_length(header, "", "value")
    if header.architecture in EQUAL_HEADS and None not in (key, value) and key != value:
        refuse(header, f"key heads of {key:,} and value heads of {value:,}, {header.architecture} needs equal lengths")
    window = uint(header, "attention.sliding_window", 0) or 0
    if window > _MAX_CONTEXT:
        name = f"{header.architecture}.attention.sliding_window"
        refuse(header, f"key '{name}' is {window:,}, {_MAX_CONTEXT:,} at most is possible")
    _check_sharing(header)
    return ()


def _check_sharing(header: Header) -> None:
    """Refuse key heads that the query heads cannot share evenly."""
    heads, kv_heads = per_layer(header, "attention.head_count"), per_layer(header, "attention.head_count_kv")
    layers = uint(header, "block_count") or 0
    if len(heads) not in (1, layers) or len(kv_heads) not in (1, layers):
        return  # missing, or llama.cpp itself reports that the array has the wrong length
    for layer in range(layers):
        n_head, n_kv = heads[layer % len(heads)], kv_heads[layer % len(kv_heads)]
        if n_kv and n_head % n_kv:
            refuse(header, f"layer {layer} has {n_head:,} query heads for {n_kv:,} key heads, not a multiple")


def check_context(header: Header) -> tuple[str, ...]:
    """Refuse a training context too large for any memory; warn about an unlikely one."""
    key, length = f"{header.architecture}.context_length", uint(header, "context_length")
    if length is None:
        return ()
    if not 0 < length <= _MAX_CONTEXT:
        problem = f"key '{key}' is {length:,}, 1 to {_MAX_CONTEXT:,} are possible"
        refuse(header, problem, effect="exhaust the memory" if length else "leave no context")
    if length > _ODD_CONTEXT:
        return (f"key '{key}' is {length:,}, more than any model was trained on: give n_ctx when loading",)
    return ()


def check_shapes(header: Header) -> tuple[str, ...]:
    """Warn about an embedding table that does not match the width or the vocabulary: llama.cpp will refuse it."""
    table, width = header.tensor("token_embd.weight"), uint(header, "embedding_length")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if table is None or len(table.shape) != 2:
        return ()
    sentences = []
    if width is not None and table.shape[0] != width:
        sentences.append(f"token_embd.weight is {table.shape[0]:,} wide, embedding_length says {width:,}")
    if tokens is not None and not isinstance(tokens, (str, int, float)) and table.shape[1] != len(tokens):
        rows = counted(table.shape[1], "row")
        sentences.append(f"token_embd.weight has {rows}, the vocabulary {counted(len(tokens), 'token')}")
    return tuple(sentences)


def check_latent(header: Header) -> tuple[str, ...]:
    """Refuse head lengths that do not match what llama.cpp's graph concatenates.

    Notes
    -----
    ``key_length = kv_lora_rank + rope.dimension_count`` is cached per token; ``key_length_mla`` is the length of a
    query head, of which ``rope.dimension_count`` are rotated (src/models/deepseek2.cpp).
    """
    cached = head_length(header)
    rotated = uint(header, "rope.dimension_count", cached)
    if header.architecture not in LATENT or cached is None or rotated is None:
        return ()
    unpacked, unpacked_v = uint(header, "attention.key_length_mla", 0), uint(header, "attention.value_length_mla", 0)
    is_latent = bool(unpacked) and bool(unpacked_v)
    head = (unpacked if is_latent else cached) or 0
    if rotated >= head:
        refuse(header, f"{rotated:,} of {head:,} dimensions of a head are rotated, at least one must be left")
    rank = uint(header, "attention.kv_lora_rank", 0) or 0
    if is_latent and cached != rank + rotated:
        key = f"{header.architecture}.attention.key_length"
        refuse(header, f"key '{key}' is {cached:,}, kv_lora_rank {rank:,} and rope.dimension_count {rotated:,} are needed")
    heads_kv = per_layer(header, "attention.head_count_kv") or per_layer(header, "attention.head_count")
    if is_latent and any(n_kv != 1 for n_kv in heads_kv):
        refuse(header, f"key '{header.architecture}.attention.head_count_kv' is {max(heads_kv):,}, latent attention needs 1")
    if header.hparam("attention.temperature_scale") and not uint(header, "attention.temperature_length"):
        refuse(header, f"key '{header.architecture}.attention.temperature_length' is missing, but temperature_scale is set")
    return ()


HPARAM_CHECKS: tuple[Callable[[Header], tuple[str, ...]], ...] = (
    check_kind, check_layers, check_output_length, check_experts, check_numbers, check_rope, check_attention, check_latent,
    check_context, check_shapes,
)  # fmt: skip
