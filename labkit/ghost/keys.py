"""Shape -> the metadata that llama.cpp reads.

References
----------
llama.cpp: ``load_hparams`` in ``src/llama-model.cpp`` and ``load_arch_hparams`` in ``src/models/*.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labkit.ghost.shape import READS, Shape

MORE_KEYS: dict[str, Callable[[Any], dict[str, Any]]] = {}  # additional keys of an architecture
_SOFTMAX = 1  # LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


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
