"""Shape -> the metadata that llama.cpp reads.

The tokenizer is the bundled model's, for any vocabulary size. Its byte-pair tokens are in merge order: 17 control tokens,
235 single bytes, then the merges. So a *prefix* is the tokenizer that the same training gives for a smaller vocabulary, with
every merge of its tokens; this is used for Llama-2's 32,000. A larger vocabulary is *padded* with words that no merge
produces: they need memory like real tokens, but no text is tokenized to them, and if a model generates one it reads
" unused50123".

References
----------
llama.cpp: ``load_hparams`` in ``src/llama-model.cpp`` and ``load_arch_hparams`` in ``src/models/*.cpp``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from labkit.errors import ArgumentError
from labkit.gguf_file import read_header
from labkit.ghost.shape import READS, Shape
from labkit.models import bundled_model_path

MORE_KEYS: dict[str, Callable[[Any], dict[str, Any]]] = {}  # additional keys of an architecture
_SOFTMAX = 1  # LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_NORMAL, _CONTROL = 1, 3  # LLAMA_TOKEN_TYPE_NORMAL, _CONTROL
_TOKENS, _KINDS, _MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"


def describe(architecture: str, shape_name: str, source: str, seed: int, file_type_id: int) -> dict[str, Any]:
    """Return the general keys; name, description and tags mark the model as synthetic."""
    return {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": f"{source} shape (synthetic, random weights)",
        "general.description": (
            "Synthetic: random weights in a real model's shape, made by labkit to measure memory and speed. "
            "Its output is meaningless."
        ),
        "general.size_label": shape_name,
        "general.tags": ["synthetic", "random-weights", "labkit-ghost"],
        "general.file_type": file_type_id,
        "general.quantization_version": _QUANTIZATION_VERSION,
        "labkit.ghost.shape": shape_name,
        "labkit.ghost.seed": str(seed),
    }


def hparams(architecture: str, s: Shape) -> dict[str, Any]:
    """Return the architecture's keys, each with its name as prefix."""
    reads = READS[architecture]
    keys: dict[str, Any] = {
        "vocab_size": s.n_vocab,
        "context_length": s.n_ctx_train,
        "embedding_length": s.n_embd,
        "block_count": s.n_layer,
        "feed_forward_length": s.n_ff,
        "attention.layer_norm_rms_epsilon": s.norm_eps,
        **_attention(architecture, s),
    }
    if "n_swa" in reads and s.n_swa:
        keys["attention.sliding_window"] = s.n_swa
    if architecture == "gemma3":
        keys["rope.freq_base_swa"] = s.freq_base_swa
    if s.n_expert:
        keys |= _experts(architecture, s)
    if "ssm_d_conv" in reads:
        keys |= _state_space(s)
    if architecture in MORE_KEYS:
        keys |= MORE_KEYS[architecture](s)
    return {f"{architecture}.{name}": value for name, value in keys.items()}


def _attention(architecture: str, s: Shape) -> dict[str, Any]:
    reads = READS[architecture]
    if architecture == "deepseek2":
        return _latent(s)
    if "n_head" not in reads:
        return {"attention.head_count": 0}
    heads_kv: Any = s.n_head_kv
    if "attention_layers" in reads:  # a layer without key heads is recurrent
        heads_kv = [s.n_head_kv if s.has_attention(layer) else 0 for layer in range(s.n_layer)]
    keys = {"attention.head_count": s.n_head, "attention.head_count_kv": heads_kv, "rope.freq_base": s.freq_base}
    if architecture != "jamba":  # jamba has no rotary embedding
        keys["rope.dimension_count"] = s.head
    if "n_embd_head" in reads:
        keys |= {"attention.key_length": s.head, "attention.value_length": s.head}
    return keys


def _latent(s: Shape) -> dict[str, Any]:
    """Return latent attention's keys: per token, ``n_lora_kv + n_rot`` numbers are cached for all heads together."""
    return {
        "attention.head_count": s.n_head,
        "attention.head_count_kv": 1,
        "attention.key_length": s.n_lora_kv + s.n_rot,
        "attention.value_length": s.n_lora_kv,
        "attention.key_length_mla": s.n_embd_head_k_mla,
        "attention.value_length_mla": s.n_embd_head_v_mla,
        "attention.q_lora_rank": s.n_lora_q,
        "attention.kv_lora_rank": s.n_lora_kv,
        "rope.dimension_count": s.n_rot,
        "rope.freq_base": s.freq_base,
    }


def _experts(architecture: str, s: Shape) -> dict[str, Any]:
    keys: dict[str, Any] = {"expert_count": s.n_expert, "expert_used_count": s.n_expert_used}
    if s.n_ff_exp:
        keys["expert_feed_forward_length"] = s.n_ff_exp
    if architecture == "deepseek2":
        keys |= {
            "leading_dense_block_count": s.n_layer_dense,
            "expert_shared_count": s.n_expert_shared,
            "expert_weights_scale": 1.0,
            "expert_weights_norm": False,
            "expert_gating_func": _SOFTMAX,
        }
    return keys


def _state_space(s: Shape) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": s.ssm_d_conv,
        "ssm.inner_size": s.inner,
        "ssm.state_size": s.ssm_d_state,
        "ssm.time_step_rank": s.rank,
    }


def tokenizer_keys(n_vocab: int) -> dict[str, Any]:
    """Return the metadata of a tokenizer with exactly ``n_vocab`` tokens, including the chat template."""
    keys = dict(_bundled())
    tokens, kinds, merges = keys[_TOKENS], keys[_KINDS], keys[_MERGES]
    least = len(tokens) - len(merges)
    if n_vocab < least:
        raise ArgumentError(f"n_vocab is {n_vocab:,}: the tokenizer needs {least} tokens or more")
    extra = [f"Ġunused{index}" for index in range(len(tokens), n_vocab)]
    keys[_TOKENS] = [*tokens[:n_vocab], *extra]
    keys[_KINDS] = np.concatenate([kinds[:n_vocab], np.full(len(extra), _NORMAL, np.int32)])
    keys[_MERGES] = merges[: n_vocab - least]
    if not keys[_MERGES]:
        del keys[_MERGES]
    return keys


def control_tokens() -> int:
    """Return the number of control tokens at the start of the vocabulary."""
    return int(np.argmin(_bundled()[_KINDS] == _CONTROL))


@functools.lru_cache(maxsize=1)
def _bundled() -> dict[str, Any]:
    """Read the bundled model's tokenizer: 50 ms, once per process."""
    metadata = read_header(bundled_model_path()).metadata
    keys = {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
    keys[_TOKENS], keys[_MERGES] = list(keys[_TOKENS]), list(keys[_MERGES])
    keys[_KINDS] = np.array(list(keys[_KINDS]), np.int32)
    return keys
