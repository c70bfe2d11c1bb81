"""Shape: a model's sizes, checked before anything is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from labkit.checks import check_flag, check_int, check_number, nearest
from labkit.errors import ArgumentError, ArgumentTypeError


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model's sizes; 0 means "has none" or "derived from the others".

    Attributes
    ----------
    n_vocab, n_ctx_train, n_embd, n_layer : int
        Vocabulary size, training context, width, number of layers.
    tied : bool
        Whether the output matrix is the token embedding.
    norm_eps, freq_base : float
        Epsilon of the norms, base of the rotary embedding.
    n_ff : int
        Width of the (dense) feed-forward part.
    n_head, n_head_kv, n_embd_head : int
        Query heads, key and value heads, length of a head (0: ``n_embd // n_head``).
    attention_layers : tuple of int
        For a hybrid: the layers with attention, counted from 0, below ``n_layer``; the others are recurrent.
    n_swa, freq_base_swa : int, float
        Window of a sliding-window layer in tokens, and the base of its rotary embedding.
    n_expert, n_expert_used, n_ff_exp, n_expert_shared : int
        Experts, experts per token, width of one, number of shared ones (DeepSeek).
    n_layer_dense, expert_every : int
        Number of first layers without experts (DeepSeek); every nth layer has experts (Jamba).
    n_lora_q, n_lora_kv, n_rot, n_embd_head_k_mla, n_embd_head_v_mla : int
        Latent attention: ranks of queries (0: not compressed) and of the cache, rotated dimensions, unpacked head lengths.
    ssm_d_conv, ssm_d_inner, ssm_d_state, ssm_dt_rank : int
        A state-space layer: convolution, inner width (0: twice ``n_embd``), state, time-step rank (0: a sixteenth of
        ``n_embd``).
    """

    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_layer: int
    tied: bool = True
    norm_eps: float = 1e-5
    n_ff: int = 0
    n_head: int = 0
    n_head_kv: int = 0
    n_embd_head: int = 0
    freq_base: float = 10_000.0
    attention_layers: tuple[int, ...] = ()
    n_swa: int = 0
    freq_base_swa: float = 10_000.0
    n_expert: int = 0
    n_expert_used: int = 0
    n_ff_exp: int = 0
    n_expert_shared: int = 0
    n_layer_dense: int = 0
    expert_every: int = 1
    n_lora_q: int = 0
    n_lora_kv: int = 0
    n_rot: int = 0
    n_embd_head_k_mla: int = 0
    n_embd_head_v_mla: int = 0
    ssm_d_conv: int = 0
    ssm_d_inner: int = 0
    ssm_d_state: int = 0
    ssm_dt_rank: int = 0

    @property
    def head(self) -> int:
        """Length of an attention head."""
        return self.n_embd_head or self.n_embd // max(1, self.n_head)

    @property
    def inner(self) -> int:
        """Inner width of a state-space layer."""
        return self.ssm_d_inner or 2 * self.n_embd

    @property
    def rank(self) -> int:
        """Time-step rank of a Mamba layer."""
        return self.ssm_dt_rank or math.ceil(self.n_embd / 16)

    def has_attention(self, layer: int) -> bool:
        """Return whether a layer of a hybrid has attention."""
        return layer in self.attention_layers


_COMMON = ("n_vocab", "n_ctx_train", "n_embd", "n_layer", "norm_eps")
_HEADS = ("n_head", "n_head_kv", "freq_base")
_FREE_HEADS = (*_HEADS, "n_embd_head")
_EXPERTS = ("n_expert", "n_expert_used")
_MAMBA = ("ssm_d_conv", "ssm_d_inner", "ssm_d_state", "ssm_dt_rank")
_WINDOW = ("n_swa",)
_LATENT = ("n_head", "freq_base", "n_lora_q", "n_lora_kv", "n_rot", "n_embd_head_k_mla", "n_embd_head_v_mla")

READS: dict[str, tuple[str, ...]] = {
    "llama": (*_COMMON, "tied", "n_ff", *_FREE_HEADS, *_EXPERTS),
    "qwen2": (*_COMMON, "tied", "n_ff", *_HEADS),
    "qwen3": (*_COMMON, "tied", "n_ff", *_FREE_HEADS),
    "gemma3": (*_COMMON, "n_ff", *_FREE_HEADS, *_WINDOW, "freq_base_swa"),
    "qwen3moe": (*_COMMON, "tied", "n_ff", *_FREE_HEADS, *_EXPERTS, "n_ff_exp"),
    "deepseek2": (*_COMMON, "tied", "n_ff", *_LATENT, *_EXPERTS, "n_ff_exp", "n_expert_shared", "n_layer_dense"),
    "mamba": (*_COMMON, "tied", *_MAMBA),
    "jamba": (*_COMMON, "tied", "n_ff", *_HEADS, "attention_layers", *_EXPERTS, "expert_every", *_MAMBA),
}  # fmt: skip
"""The sizes that each architecture uses."""

_MAY_BE_ZERO = frozenset({
    "n_embd_head", "n_swa", "n_expert", "n_expert_used", "n_layer_dense", "n_lora_q", "ssm_d_inner", "ssm_dt_rank",
})  # fmt: skip
_LARGEST = 1 << 24


def checked(architecture: str, base: Shape, changes: Mapping[str, Any]) -> Shape:
    """Return a shape with some sizes changed."""
    known = READS[architecture]
    values = {key: _value(architecture, key, value, known) for key, value in changes.items()}
    shape = dataclasses.replace(base, **values)
    if shape.attention_layers:
        kept = tuple(layer for layer in sorted(set(shape.attention_layers)) if layer < shape.n_layer)
        shape = dataclasses.replace(shape, attention_layers=kept)
    problem = next((text for wrong, text in _contradictions(architecture, shape) if wrong), None)
    if problem is not None:
        raise ArgumentError(f"invalid {architecture} shape: {problem}")
    return shape


def _value(architecture: str, key: str, value: Any, known: tuple[str, ...]) -> Any:
    if key not in known:
        near = nearest(str(key), known)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise ArgumentError(f"a {architecture} shape has no key {key!r}{hint}; its keys are {', '.join(known)}")
    if key == "attention_layers":
        return _layers(value)
    name = f"shape key {key!r}"
    if key == "tied":
        return check_flag(name, value)
    if key in ("norm_eps", "freq_base", "freq_base_swa"):
        return check_number(name, value, 1e-30, 1e30)
    return check_int(name, value, 0 if key in _MAY_BE_ZERO else 1, _LARGEST)


def _layers(value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, (tuple, list, range, set, frozenset)):
        raise ArgumentTypeError(f"shape key 'attention_layers' must be a list of layers, not {value!r}")
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in value):
        raise ArgumentTypeError(f"shape key 'attention_layers' must hold whole numbers, not {value!r}")
    if not value or min(value) < 0:
        raise ArgumentError(f"shape key 'attention_layers' must name at least one layer, counted from 0, not {value!r}")
    return tuple(value)


def _contradictions(architecture: str, s: Shape) -> tuple[tuple[bool, str], ...]:
    reads, head = READS[architecture], s.head
    derived = "n_embd_head" not in reads or not s.n_embd_head
    return (
        (s.n_layer > 512, f"n_layer is {s.n_layer:,}, llama.cpp allows at most 512"),
        ("n_head_kv" in reads and derived and s.n_embd % max(1, s.n_head) != 0,
         f"n_embd {s.n_embd:,} is not a multiple of n_head {s.n_head:,}"),
        ("n_head_kv" in reads and s.n_head % max(1, s.n_head_kv) != 0,
         f"n_head {s.n_head:,} is not a multiple of n_head_kv {s.n_head_kv:,}"),
        ("n_head_kv" in reads and (head % 2 != 0 or head < 2), f"a head of {head:,} is odd, rotary embedding needs pairs"),
        ("n_expert" in reads and s.n_expert > 1024, f"n_expert is {s.n_expert:,}, llama.cpp allows at most 1,024"),
        (s.n_expert > 0 and not 0 < s.n_expert_used <= s.n_expert,
         f"n_expert_used is {s.n_expert_used:,} of n_expert {s.n_expert:,}"),
        (s.n_expert == 0 and s.n_expert_used > 0, f"n_expert_used is {s.n_expert_used:,}, but n_expert is 0"),
        (architecture in ("qwen3moe", "deepseek2") and s.n_expert == 0, "n_expert is 0, but it has experts"),
        (architecture == "deepseek2" and not 0 < s.n_rot < s.n_embd_head_k_mla,
         f"n_rot {s.n_rot:,} must be below n_embd_head_k_mla {s.n_embd_head_k_mla:,}"),
        (architecture == "deepseek2" and s.n_rot % 2 != 0, f"n_rot {s.n_rot:,} is odd, rotary embedding needs pairs"),
        (architecture == "deepseek2" and s.n_lora_q > 0 and s.n_layer in (26, 27),
         f"llama.cpp treats {s.n_layer} layers as a Lite model, which has no compressed queries: n_lora_q must be 0"),
        ("attention_layers" in reads and not s.attention_layers, f"no attention layer is below n_layer {s.n_layer:,}"),
        (architecture in ("mamba", "jamba") and s.inner != 2 * s.n_embd,
         f"ssm_d_inner is {s.inner:,}, llama.cpp allows only twice n_embd: {2 * s.n_embd:,}"),
        ("ssm_d_conv" in reads and s.ssm_d_conv < 2, f"ssm_d_conv is {s.ssm_d_conv:,}, at least 2 is needed"),
    )  # fmt: skip
