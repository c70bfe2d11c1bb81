"""Small random models of several kinds that llama.cpp loads: biases, windows, experts, latent attention, recurrence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.gguf_models import F16_TYPE, F32_TYPE, Parts, llama, weights
from tests.gguf_zoo import BOOL, F32, U32

__all__ = ["KINDS"]

_RNG = np.random.default_rng(1)


def _add(parts: Parts, name: str, shape: tuple[int, ...], kind: int = F32_TYPE) -> None:
    parts.tensors[name] = (shape, kind, weights(_RNG, shape, kind))


def _drop(parts: Parts, layer: int, *names: str) -> None:
    for name in names:
        del parts.tensors[f"blk.{layer}.{name}.weight"]


def _numbers(parts: Parts, architecture: str, **values: int) -> None:
    for name, value in values.items():
        parts.keys[f"{architecture}.{name.replace('__', '.')}"] = (U32, value, None)


def qwen2() -> Parts:
    """Return a model with biases on query, key and value."""
    parts = llama(architecture="qwen2", tokenizer="gpt2")
    for layer in range(2):
        for name, n in (("q", 64), ("k", 32), ("v", 32)):
            _add(parts, f"blk.{layer}.attn_{name}.bias", (n,))
    return parts


def _query_norms(parts: Parts, n_layer: int) -> None:
    for layer in range(n_layer):
        _add(parts, f"blk.{layer}.attn_q_norm.weight", (16,))
        _add(parts, f"blk.{layer}.attn_k_norm.weight", (16,))


def qwen3() -> Parts:
    """Return a model with norms on queries and keys, and explicit head lengths."""
    parts = llama(architecture="qwen3", tokenizer="gpt2")
    _query_norms(parts, 2)
    _numbers(parts, "qwen3", attention__key_length=16, attention__value_length=16)
    return parts


def _gemma(architecture: str, n_layer: int) -> Parts:
    parts = llama(architecture=architecture, n_layer=n_layer)
    for layer in range(n_layer):
        _add(parts, f"blk.{layer}.post_attention_norm.weight", (64,))
        _add(parts, f"blk.{layer}.post_ffw_norm.weight", (64,))
    _numbers(parts, architecture, attention__key_length=16, attention__value_length=16, attention__sliding_window=32)
    return parts


def gemma2() -> Parts:
    """Return a model with a sliding window in every second layer."""
    return _gemma("gemma2", 2)


def gemma3() -> Parts:
    """Return a model with a sliding window in five of six layers."""
    parts = _gemma("gemma3", 6)
    _query_norms(parts, 6)
    return parts


def _experts(parts: Parts, architecture: str, n_ff: int) -> None:
    for layer in range(2):
        _drop(parts, layer, "ffn_gate", "ffn_up", "ffn_down")
        _add(parts, f"blk.{layer}.ffn_gate_inp.weight", (64, 4))
        _add(parts, f"blk.{layer}.ffn_gate_exps.weight", (64, n_ff, 4), F16_TYPE)
        _add(parts, f"blk.{layer}.ffn_up_exps.weight", (64, n_ff, 4), F16_TYPE)
        _add(parts, f"blk.{layer}.ffn_down_exps.weight", (n_ff, 64, 4), F16_TYPE)
    _numbers(parts, architecture, expert_count=4, expert_used_count=2)


def qwen3moe() -> Parts:
    """Return a model of four experts, two of them used per token."""
    parts = llama(architecture="qwen3moe", tokenizer="gpt2")
    _query_norms(parts, 2)
    _experts(parts, "qwen3moe", 32)
    _numbers(parts, "qwen3moe", expert_feed_forward_length=32)
    return parts


def mixtral() -> Parts:
    """Return a llama of four experts."""
    parts = llama(tokenizer="gpt2")
    _experts(parts, "llama", 96)
    return parts


def mamba() -> Parts:
    """Return a model with a fixed-size state instead of attention."""
    parts = llama(architecture="mamba", tokenizer="gpt2")
    parts.tensors = {name: entry for name, entry in parts.tensors.items() if not name.startswith("blk.")}
    gone = ("head_count", "rope", "feed_forward")
    parts.keys = {name: entry for name, entry in parts.keys.items() if not any(word in name for word in gone)}
    inner, state, rank = 128, 16, 4
    _numbers(parts, "mamba", feed_forward_length=0, attention__head_count=0, ssm__conv_kernel=4, ssm__inner_size=inner,
             ssm__state_size=state, ssm__time_step_rank=rank)  # fmt: skip
    for layer in range(2):
        block = f"blk.{layer}"
        _add(parts, f"{block}.attn_norm.weight", (64,))
        _add(parts, f"{block}.ssm_in.weight", (64, 2 * inner), F16_TYPE)
        _add(parts, f"{block}.ssm_conv1d.weight", (4, inner))
        _add(parts, f"{block}.ssm_conv1d.bias", (inner,))
        _add(parts, f"{block}.ssm_x.weight", (inner, rank + 2 * state), F16_TYPE)
        _add(parts, f"{block}.ssm_dt.weight", (rank, inner))
        _add(parts, f"{block}.ssm_dt.bias", (inner,))
        _add(parts, f"{block}.ssm_a", (state, inner))
        _add(parts, f"{block}.ssm_d", (inner,))
        _add(parts, f"{block}.ssm_out.weight", (inner, 64), F16_TYPE)
    return parts


def phi3() -> Parts:
    """Return a model with query, key and value in one tensor, and a window that llama.cpp does not use."""
    parts = llama(architecture="phi3")
    for layer in range(2):
        _drop(parts, layer, "attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")
        _add(parts, f"blk.{layer}.attn_qkv.weight", (64, 128), F16_TYPE)
        _add(parts, f"blk.{layer}.ffn_up.weight", (64, 192), F16_TYPE)
    _add(parts, "output.weight", (64, 320), F16_TYPE)
    _numbers(parts, "phi3", attention__sliding_window=32, rope__scaling__original_context_length=512)
    return parts


def deepseek2() -> Parts:
    """Return a model with latent attention: per token, one compressed key of 32 + 16 numbers for all four heads."""
    parts = llama(architecture="deepseek2", tokenizer="gpt2", n_head=4, n_head_kv=1)
    rank, rope, plain, value = 32, 16, 16, 16
    for layer in range(2):
        block = f"blk.{layer}"
        _drop(parts, layer, "attn_q", "attn_k", "attn_v", "attn_output")
        _add(parts, f"{block}.attn_q.weight", (64, 4 * (plain + rope)), F16_TYPE)
        _add(parts, f"{block}.attn_kv_a_mqa.weight", (64, rank + rope), F16_TYPE)
        _add(parts, f"{block}.attn_kv_a_norm.weight", (rank,))
        _add(parts, f"{block}.attn_k_b.weight", (plain, rank, 4), F16_TYPE)
        _add(parts, f"{block}.attn_v_b.weight", (rank, value, 4), F16_TYPE)
        _add(parts, f"{block}.attn_output.weight", (4 * value, 64), F16_TYPE)
    _add(parts, "output.weight", (64, 320), F16_TYPE)
    _numbers(
        parts, "deepseek2", attention__key_length=rank + rope, attention__value_length=rank, attention__q_lora_rank=0,
        attention__kv_lora_rank=rank, attention__key_length_mla=plain + rope, attention__value_length_mla=value,
        rope__dimension_count=rope, leading_dense_block_count=2, expert_count=4, expert_used_count=2,
        expert_shared_count=1, expert_feed_forward_length=32, expert_gating_func=2,
    )  # fmt: skip
    parts.keys["deepseek2.expert_weights_scale"] = (F32, 1.0, None)
    parts.keys["deepseek2.expert_weights_norm"] = (BOOL, True, None)
    return parts


KINDS: dict[str, Callable[[], Parts]] = {
    build.__name__: build for build in (qwen2, qwen3, gemma2, gemma3, qwen3moe, mixtral, mamba, phi3, deepseek2)
}
"""Name -> builder."""
