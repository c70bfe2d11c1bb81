"""Shape -> names and shapes of the tensors, as each architecture's converter writes them.

A layer is a sequence of *parts* (attention, experts, a selective scan, …); an architecture is the list of its parts.
Shapes are in the file's order: row length first. Small auxiliary tensors that llama.cpp does not require (frequency
factors of long contexts, a few hundred bytes) are omitted.

References
----------
llama.cpp: ``load_arch_tensors`` in ``src/models/*.cpp``; gguf-py: ``MODEL_TENSORS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from labkit.ghost.shape import Shape

OUTPUT_NORMS: dict[str, str] = {}  # where an architecture names it differently


class Tensor(NamedTuple):
    """One tensor: its name, its shape (row length first), and the kind of its values."""

    name: str
    shape: tuple[int, ...]
    fill: str

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


_Parts = Iterator[tuple[str, tuple[int, ...], str]]
_Part = Callable[[Shape, int], _Parts]


def layout(architecture: str, s: Shape) -> tuple[Tensor, ...]:
    """List the tensors of a shape, the embedding first."""
    tensors = [
        Tensor("token_embd.weight", (s.n_embd, s.n_vocab), "tied" if s.tied else "weights"),
        Tensor(f"{OUTPUT_NORMS.get(architecture, 'output_norm')}.weight", (s.n_embd,), "ones"),
    ]
    if not s.tied:
        tensors.append(Tensor("output.weight", (s.n_embd, s.n_vocab), "output"))
    for layer in range(s.n_layer):
        for part in PARTS[architecture]:
            tensors += [Tensor(f"blk.{layer}.{name}", shape, fill) for name, shape, fill in part(s, layer)]
    return tuple(tensors)


def _attention(s: Shape, layer: int) -> _Parts:
    queries, keys = s.head * s.n_head, s.head * s.n_head_kv
    yield "attn_norm.weight", (s.n_embd,), "ones"
    yield "attn_q.weight", (s.n_embd, queries), "queries"
    yield "attn_k.weight", (s.n_embd, keys), "weights"
    yield "attn_v.weight", (s.n_embd, keys), "weights"
    yield "attn_output.weight", (queries, s.n_embd), "weights"


def _biases(s: Shape, layer: int) -> _Parts:
    for name, heads in (("q", s.n_head), ("k", s.n_head_kv), ("v", s.n_head_kv)):
        yield f"attn_{name}.bias", (s.head * heads,), "bias"


def _head_norms(s: Shape, layer: int) -> _Parts:
    yield "attn_q_norm.weight", (s.head,), "query norm"
    yield "attn_k_norm.weight", (s.head,), "ones"


def _post_norms(s: Shape, layer: int) -> _Parts:
    yield "post_attention_norm.weight", (s.n_embd,), "ones"
    yield "post_ffw_norm.weight", (s.n_embd,), "ones"


def _feed_forward(s: Shape, layer: int) -> _Parts:
    yield "ffn_norm.weight", (s.n_embd,), "ones"
    yield from _gated("", s.n_embd, s.n_ff)


def _gated(suffix: str, n_embd: int, n_ff: int) -> _Parts:
    yield f"ffn_gate{suffix}.weight", (n_embd, n_ff), "weights"
    yield f"ffn_up{suffix}.weight", (n_embd, n_ff), "weights"
    yield f"ffn_down{suffix}.weight", (n_ff, n_embd), "weights"


def _experts(s: Shape, layer: int) -> _Parts:
    width = s.n_ff_exp or s.n_ff
    yield "ffn_norm.weight", (s.n_embd,), "ones"
    yield "ffn_gate_inp.weight", (s.n_embd, s.n_expert), "weights"
    yield "ffn_gate_exps.weight", (s.n_embd, width, s.n_expert), "weights"
    yield "ffn_up_exps.weight", (s.n_embd, width, s.n_expert), "weights"
    yield "ffn_down_exps.weight", (width, s.n_embd, s.n_expert), "weights"


def _perhaps_experts(s: Shape, layer: int) -> _Parts:
    has_experts = s.n_expert > 0 and layer >= s.n_layer_dense and (layer + 1) % s.expert_every == 0
    yield from (_experts if has_experts else _feed_forward)(s, layer)
    if has_experts and s.n_expert_shared:
        yield from _gated("_shexp", s.n_embd, s.n_ff_exp * s.n_expert_shared)


def _latent(s: Shape, layer: int) -> _Parts:
    queries, plain = s.n_head * s.n_embd_head_k_mla, s.n_embd_head_k_mla - s.n_rot
    yield "attn_norm.weight", (s.n_embd,), "ones"
    if s.n_lora_q:
        yield "attn_q_a.weight", (s.n_embd, s.n_lora_q), "weights"
        yield "attn_q_a_norm.weight", (s.n_lora_q,), "ones"
        yield "attn_q_b.weight", (s.n_lora_q, queries), "queries"
    else:
        yield "attn_q.weight", (s.n_embd, queries), "queries"
    yield "attn_kv_a_mqa.weight", (s.n_embd, s.n_lora_kv + s.n_rot), "weights"
    yield "attn_kv_a_norm.weight", (s.n_lora_kv,), "ones"
    yield "attn_k_b.weight", (plain, s.n_lora_kv, s.n_head), "weights"
    yield "attn_v_b.weight", (s.n_lora_kv, s.n_embd_head_v_mla, s.n_head), "weights"
    yield "attn_output.weight", (s.n_head * s.n_embd_head_v_mla, s.n_embd), "weights"


def _mamba(s: Shape, layer: int) -> _Parts:
    yield "attn_norm.weight", (s.n_embd,), "ones"
    yield "ssm_in.weight", (s.n_embd, 2 * s.inner), "weights"
    yield "ssm_conv1d.weight", (s.ssm_d_conv, s.inner), "weights"
    yield "ssm_conv1d.bias", (s.inner,), "bias"
    yield "ssm_x.weight", (s.inner, s.rank + 2 * s.ssm_d_state), "weights"
    yield "ssm_dt.weight", (s.rank, s.inner), "weights"
    yield "ssm_dt.bias", (s.inner,), "step"
    yield "ssm_a", (s.ssm_d_state, s.inner), "decay"
    yield "ssm_d", (s.inner,), "ones"
    yield "ssm_out.weight", (s.inner, s.n_embd), "weights"


def _mamba_norms(s: Shape, layer: int) -> _Parts:
    yield "ssm_dt_norm.weight", (s.rank,), "ones"
    yield "ssm_b_norm.weight", (s.ssm_d_state,), "ones"
    yield "ssm_c_norm.weight", (s.ssm_d_state,), "ones"


def _either(attention: tuple[_Part, ...], other: tuple[_Part, ...]) -> _Part:
    """Return a part that is the first in a hybrid's attention layers, and the second in the others."""

    def part(s: Shape, layer: int) -> _Parts:
        for chosen in attention if s.has_attention(layer) else other:
            yield from chosen(s, layer)

    return part


PARTS: dict[str, tuple[_Part, ...]] = {
    "llama": (_attention, _perhaps_experts),
    "qwen2": (_attention, _biases, _feed_forward),
    "qwen3": (_attention, _head_norms, _feed_forward),
    "gemma3": (_attention, _head_norms, _post_norms, _feed_forward),
    "qwen3moe": (_attention, _head_norms, _perhaps_experts),
    "deepseek2": (_latent, _perhaps_experts),
    "mamba": (_mamba,),
    "jamba": (_either((_attention,), (_mamba, _mamba_norms)), _perhaps_experts),
}
