"""Ghosts of architectures that labkit's estimates know and no notebook needs: Gemma 2, Qwen 2 MoE, and five with states.

Importing this module adds them to labkit's tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from labkit.ghost.keys import MORE_KEYS
from labkit.ghost.layout import (
    OUTPUT_NORMS,
    PARTS,
    _attention,
    _biases,
    _either,
    _feed_forward,
    _gated,
    _head_norms,
    _perhaps_experts,
    _post_norms,
)
from labkit.ghost.shape import READS, Shape
from labkit.ghost.shapes import _HEADS, _SMALL, _TINY, SHAPES

_Parts = Iterator[tuple[str, tuple[int, ...], str]]
_MAMBA2: dict[str, Any] = {"ssm_d_conv": 4, "ssm_d_state": 32, "ssm_n_group": 1}


@dataclasses.dataclass(frozen=True)
class MoreShape(Shape):
    """A shape with the sizes of these architectures: a shared expert, Mamba 2's groups, LFM2's short convolution."""

    n_ff_shexp: int = 0
    ssm_n_group: int = 0
    n_shortconv_l_cache: int = 0

    @property
    def ssm_heads(self) -> int:
        """Heads of a Mamba 2 layer."""
        return self.ssm_dt_rank or max(1, self.inner // 64)


def _mamba2(s: MoreShape, layer: int) -> _Parts:
    mixed, heads = s.inner + 2 * s.ssm_n_group * s.ssm_d_state, s.ssm_heads
    yield "attn_norm.weight", (s.n_embd,), "ones"
    yield "ssm_in.weight", (s.n_embd, s.inner + mixed + heads), "weights"
    yield "ssm_conv1d.weight", (s.ssm_d_conv, mixed), "weights"
    yield "ssm_conv1d.bias", (mixed,), "bias"
    yield "ssm_dt.bias", (heads,), "step"
    yield "ssm_a", (1, heads), "decay"
    yield "ssm_d", (1, heads), "ones"
    yield "ssm_norm.weight", (s.inner // s.ssm_n_group, s.ssm_n_group), "ones"
    yield "ssm_out.weight", (s.inner, s.n_embd), "weights"


def _falcon(s: MoreShape, layer: int) -> _Parts:
    """Attention and a state space in parallel; the name of its feed-forward norm has no ".weight"."""
    yield from _mamba2(s, layer)
    yield from (row for row in _attention(s, layer) if row[0] != "attn_norm.weight")
    yield "ffn_norm", (s.n_embd,), "ones"
    yield from _gated("", s.n_embd, s.n_ff)


def _short_convolution(s: MoreShape, layer: int) -> _Parts:
    yield "attn_norm.weight", (s.n_embd,), "ones"
    yield "shortconv.conv.weight", (s.n_shortconv_l_cache, s.n_embd), "weights"
    yield "shortconv.in_proj.weight", (s.n_embd, 3 * s.n_embd), "weights"
    yield "shortconv.out_proj.weight", (s.n_embd, s.n_embd), "weights"


def _shared_expert(s: MoreShape, layer: int) -> _Parts:
    if s.n_ff_shexp and s.n_expert:
        yield from _gated("_shexp", s.n_embd, s.n_ff_shexp)


def _shared_gate(s: Shape, layer: int) -> _Parts:
    yield "ffn_gate_inp_shexp.weight", (s.n_embd,), "bias"


def _groups(s: MoreShape) -> dict[str, Any]:
    return {"ssm.time_step_rank": s.ssm_heads, "ssm.group_count": s.ssm_n_group}


def _shared(s: MoreShape) -> dict[str, Any]:
    return {"expert_shared_feed_forward_length": s.n_ff_shexp} if s.n_ff_shexp and s.n_expert else {}


# fmt: off
SHAPES.update({
    "gemma2": {
        "tiny": (_TINY, MoreShape(**_SMALL, **_HEADS, n_swa=64)),
        "2B": ("Gemma-2-2B", MoreShape(256_000, 8192, 2304, 26, True, 1e-6, 9216, 8, 4, 256, n_swa=4096)),
    },
    "qwen2moe": {
        "tiny": (_TINY, MoreShape(**_SMALL, **_HEADS, tied=False, n_expert=4, n_expert_used=2, n_ff_exp=256,
                                  n_ff_shexp=512)),
        "A2.7B": ("Qwen1.5-MoE-A2.7B", MoreShape(151_936, 8192, 2048, 24, False, 1e-6, 5632, 16, 16, freq_base=1e6,
                                             n_expert=60, n_expert_used=4, n_ff_exp=1408, n_ff_shexp=5632)),
    },
    "mamba2": {
        "tiny": (_TINY, MoreShape(**_SMALL, **_MAMBA2)),
        "130M": ("mamba2-130m", MoreShape(50_288, 1_048_576, 768, 24, ssm_d_conv=4, ssm_d_state=128, ssm_n_group=1)),
    },
    "falcon-h1": {
        "tiny": (_TINY, MoreShape(**_SMALL, **_HEADS, **_MAMBA2)),
        "0.5B": ("Falcon-H1-0.5B", MoreShape(32_784, 16_384, 1024, 36, False, 1e-5, 2048, 8, 2, 64, 1e11, ssm_d_conv=4,
                                         ssm_d_inner=1536, ssm_d_state=128, ssm_dt_rank=24, ssm_n_group=1)),
    },
    "granitehybrid": {
        "tiny": (_TINY, MoreShape(**_SMALL | {"n_layer": 4}, **_HEADS, **_MAMBA2, attention_layers=(1, 3))),
        "7B-A1B": ("Granite-4.0-H-Tiny", MoreShape(100_352, 131_072, 1536, 40, True, 1e-5, 512, 12, 4, ssm_d_conv=4,
                                               ssm_d_state=128, ssm_n_group=1, attention_layers=(5, 15, 25, 35), n_expert=64,
                                               n_expert_used=6, n_ff_shexp=1024)),
    },
    "lfm2": {
        "tiny": (_TINY, MoreShape(**_SMALL | {"n_layer": 4}, **_HEADS, attention_layers=(1, 3), n_shortconv_l_cache=3)),
        "350M": ("LFM2-350M", MoreShape(65_536, 128_000, 1024, 16, True, 1e-5, 4608, 16, 8, freq_base=1e6,
                                    attention_layers=(2, 5, 8, 10, 12, 14), n_shortconv_l_cache=3)),
        "1.2B": ("LFM2-1.2B", MoreShape(65_536, 128_000, 2048, 16, True, 1e-5, 8192, 32, 8, freq_base=1e6,
                                    attention_layers=(2, 5, 8, 10, 12, 14), n_shortconv_l_cache=3)),
    },
})
# fmt: on
_COMMON = ("n_vocab", "n_ctx_train", "n_embd", "n_layer", "norm_eps")
_ATTENTION = ("n_ff", "n_head", "n_head_kv", "freq_base")
_EXPERTS = ("n_expert", "n_expert_used")
_STATE = ("ssm_d_conv", "ssm_d_inner", "ssm_d_state", "ssm_dt_rank", "ssm_n_group")
READS.update({
    "gemma2": (*_COMMON, *_ATTENTION, "n_embd_head", "n_swa"),
    "qwen2moe": (*_COMMON, *_ATTENTION, *_EXPERTS, "n_ff_exp", "n_ff_shexp"),
    "mamba2": (*_COMMON, "tied", *_STATE),
    "falcon-h1": (*_COMMON, "tied", *_ATTENTION, "n_embd_head", *_STATE),
    "granitehybrid": (*_COMMON, "tied", *_ATTENTION, "n_embd_head", "attention_layers", *_EXPERTS, "n_ff_shexp", *_STATE),
    "lfm2": (*_COMMON, "tied", *_ATTENTION, "attention_layers", "n_shortconv_l_cache"),
})  # fmt: skip
PARTS.update({
    "gemma2": (_attention, _post_norms, _feed_forward),
    "qwen2moe": (_attention, _biases, _perhaps_experts, _shared_expert, _shared_gate),
    "mamba2": (_mamba2,),
    "falcon-h1": (_falcon,),
    "granitehybrid": (_either((_attention,), (_mamba2,)), _perhaps_experts, _shared_expert),
    "lfm2": (_either((_attention, _head_norms), (_short_convolution,)), _feed_forward),
})  # fmt: skip
OUTPUT_NORMS["lfm2"] = "token_embd_norm"
MORE_KEYS.update({
    "gemma2": lambda _: {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "qwen2moe": _shared,
    "mamba2": _groups,
    "falcon-h1": _groups,
    "granitehybrid": lambda s: _groups(s) | _shared(s),
    "lfm2": lambda s: {"shortconv.l_cache": s.n_shortconv_l_cache},
})  # fmt: skip
