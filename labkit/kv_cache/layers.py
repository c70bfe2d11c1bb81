"""What each layer of a model caches, by architecture: keys and values, or a recurrent state.

References
----------
llama.cpp ``src/llama-model.cpp`` (``load_hparams``, ``create_memory``), ``src/llama-hparams.cpp`` (``set_swa_pattern``,
``n_embd_r``, ``n_embd_s``), ``src/models/*.cpp`` (``load_arch_hparams``); llama.cpp 0c1e570.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from labkit.errors import GGUFError
from labkit.units import counted

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
# Layers with full attention that cache keys and values: llama.cpp's plain llama_kv_cache.
_PLAIN = frozenset({
    "apertus", "arcee", "arctic", "baichuan", "bailingmoe", "bailingmoe2", "bitnet", "bloom", "chameleon", "chatglm",
    "codeshell", "cogvlm", "command-r", "dbrx", "deci", "deepseek", "deepseek2", "dots1", "ernie4_5", "ernie4_5-moe",
    "exaone", "falcon", "gemma", "glm4", "glm4moe", "gpt2", "gptj", "gptneox", "granite", "granitemoe", "grok",
    "grovemoe", "hunyuan-dense", "hunyuan-moe", "internlm2", "jais", "llama", "maincoder", "minicpm", "minicpm3",
    "minimax-m2", "mistral3", "mpt", "nemotron", "olmo", "olmoe", "openelm", "orion", "pangu-embedded", "phi2", "phi3",
    "phimoe", "plamo", "plm", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe",
    "refact", "seed_oss", "smollm3", "stablelm", "starcoder", "starcoder2", "xverse",
})  # fmt: skip
# Architecture -> (one full layer in N, whether the full one comes first); 0: every layer has a window.
_WINDOW_PATTERN = {
    "cohere2": (4, False), "exaone4": (4, False), "gemma2": (2, False), "gemma3": (6, False), "gemma3n": (5, False),
    "gpt-oss": (2, False), "llama4": (4, False), "olmo2": (4, False), "plamo3": (8, False), "smallthinker": (4, True),
}  # fmt: skip
# The same for architectures of which the other rules here are not known, and those that name each layer in the file.
_MORE_PATTERNS = {
    "afmoe": (4, False), "cohere2moe": (4, True), "deepseek4": (0, False), "exaone-moe": (4, False),
    "gemma-embedding": (6, False), "laguna": (4, True), "mellum": (4, False), "modern-bert": (3, True),
    "muse-glimmer": (4, False),
}  # fmt: skip
_NAMES_EACH = frozenset({
    "dflash", "dots3note", "gemma4", "gemma4-assistant", "granite_swa", "maple", "mimo2", "spark2_5", "step35",
})  # fmt: skip
_FIXED_WINDOW = {"llama4": 8192, "smallthinker": 4096}  # overrides the file, unless the file says 0
_DEFAULT_WINDOW = {"gemma2": 4096, "llama4": 8192}  # where the file has no value
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_HYBRID = frozenset({
    "falcon-h1", "granitehybrid", "jamba", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe",
    "qwen3next",
})  # fmt: skip
_EVERY_FOURTH = frozenset({"qwen35", "qwen35moe", "qwen3next"})  # full attention; the others have a state

# Tests compare these sizes with llama.cpp's, to the byte; the other rules come from its source.
CHECKED = frozenset({
    "deepseek2", "falcon-h1", "gemma2", "gemma3", "granitehybrid", "jamba", "lfm2", "llama", "mamba", "mamba2", "phi3",
    "qwen2", "qwen2moe", "qwen3", "qwen3moe",
})  # fmt: skip


class HasHparams(Protocol):
    """The needed part of a header: its architecture, and the architecture's keys."""

    @property
    def architecture(self) -> str:
        """``general.architecture``."""

    def hparam(self, name: str, default: Any = None) -> Any:
        """Return an architecture's key, such as ``block_count``."""


class LayerMemory(NamedTuple):
    """What one layer caches."""

    key_width: int  # numbers cached per token; 0 where it caches none
    value_width: int
    is_windowed: bool = False  # attention is limited to the window
    state_width: int = 0  # numbers (f32) of its recurrent state per sequence; 0 where it has none
    n_heads: int = 0  # query heads
    key_length: int = 0  # of one key head, as cached
    value_length: int = 0


class ModelLayers(NamedTuple):
    """What all layers cache."""

    layers: tuple[LayerMemory, ...]
    window: int  # of the windowed layers, tokens; 0 where there are none
    widest_value: int  # width of a row of values: without flash attention every layer's is padded to it
    layout: str  # a description, such as "grouped-query attention"
    is_known: bool  # this module has rules for the architecture; else plain attention is assumed
    is_checked: bool  # tests compare the result with llama.cpp's figures


def number(model: HasHparams, name: str, default: int = 0) -> int:
    """Return one of an architecture's whole numbers; the default where the file has none, or 0."""
    value = model.hparam(name)
    if value is None:
        return default
    return _whole(model, name, value) or default


def largest(model: HasHparams, name: str) -> int:
    """Return one of an architecture's whole numbers, the largest where layers differ; 0 where the file has none."""
    return max(_per_layer(model, name, 0, 0) or [0]) if _is_list(model.hparam(name)) else number(model, name)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _whole(model: HasHparams, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**31 or value != int(value):
        raise GGUFError(
            f"key '{model.architecture}.{name}' is not a whole number from 0 to {2**31 - 1:,}: the file is not a valid model"
        )
    return int(value)


def model_layers(model: HasHparams) -> ModelLayers:
    """Return what each layer of a model caches, from the header's keys."""
    n_layers = number(model, "block_count")
    if n_layers > _MAX_LAYERS:
        raise GGUFError(f"key '{model.architecture}.block_count' is {n_layers:,}, 1 to {_MAX_LAYERS} are possible")
    heads = _per_layer(model, "attention.head_count", n_layers, 0)
    heads_kv = _per_layer(model, "attention.head_count_kv", n_layers, None) or heads
    windowed, window = _windows(model, n_layers)
    recurrent = _recurrent(model, heads_kv)
    state = _state_width(model, heads)
    has_latent = bool(model.hparam("attention.key_length_mla") and model.hparam("attention.value_length_mla"))
    n_attending = n_layers - number(model, "nextn_predict_layers") or n_layers
    n_caching = _first_sharing(model, n_attending)
    layers = []
    for index in range(n_layers):
        lengths = [_head_dim(model, heads, name, windowed[index]) for name in ("key", "value")]
        caches = index < n_caching and _attends(model, index, recurrent[index])
        has_state = index < n_attending and (recurrent[index] or model.architecture == "falcon-h1")
        layers.append(
            LayerMemory(
                key_width=lengths[0] * heads_kv[index] if caches else 0,
                value_width=lengths[1] * heads_kv[index] if caches and not has_latent else 0,
                is_windowed=windowed[index] and caches,
                state_width=state if has_state else 0,
                n_heads=heads[index],
                key_length=lengths[0],
                value_length=lengths[1],
            )
        )
    widest = max((layer.value_length * n for layer, n in zip(layers, heads_kv, strict=False)), default=0)
    known = model.architecture in {*_PLAIN, *_WINDOW_PATTERN, "gemma4", *RECURRENT, *_HYBRID}
    layout = _describe(tuple(layers), heads, heads_kv, has_latent=has_latent)
    return ModelLayers(tuple(layers), window, widest, layout, known, model.architecture in CHECKED)


def _per_layer(model: HasHparams, name: str, n_layers: int, default: int | None) -> list[int]:
    value = model.hparam(name, default)
    if value is None:
        return []
    if not _is_list(value):
        return [_whole(model, name, value)] * n_layers
    if len(value) < n_layers:
        values, layers = counted(len(value), "value"), counted(n_layers, "layer")
        raise GGUFError(f"key '{model.architecture}.{name}' has {values} for {layers}: invalid model")
    return [_whole(model, name, item) for item in value[: n_layers or len(value)]]


def _head_dim(model: HasHparams, heads: list[int], name: str, windowed: bool) -> int:
    """Return the length of a head of keys or values, as it is cached."""
    first = heads[0] if heads else 0
    if not first:
        return 0
    full = number(model, f"attention.{name}_length", number(model, "embedding_length") // first)
    return number(model, f"attention.{name}_length_swa", full) if windowed else full


def _windows(model: HasHparams, n_layers: int) -> tuple[list[bool], int]:
    """Return which layers have a sliding window, and its length; an architecture that is not listed ignores the file's."""
    architecture = model.architecture
    given = model.hparam("attention.sliding_window")
    window = _DEFAULT_WINDOW.get(architecture, 0) if given is None else _whole(model, "attention.sliding_window", given)
    if architecture in _FIXED_WINDOW and window:
        window = _FIXED_WINDOW[architecture]
    if architecture == "exaone4":  # only the 32B model has sliding windows
        window = (window or 4096) if n_layers == 64 else 0
    pattern = model.hparam("attention.sliding_window_pattern")
    if architecture == "lfm2" and window:
        return [bool(heads) for heads in _per_layer(model, "attention.head_count_kv", n_layers, 0)], window
    patterns = {**_WINDOW_PATTERN, **_MORE_PATTERNS}
    if not window or not (architecture in patterns or architecture in _NAMES_EACH):
        return [False] * n_layers, 0
    if pattern is not None and not isinstance(pattern, (int, float)):
        return [index < len(pattern) and bool(pattern[index]) for index in range(n_layers)], window
    every, full_first = patterns.get(architecture, (1, False))
    every = int(pattern) if isinstance(pattern, int) else every
    full = 0 if full_first else every - 1
    return [every == 0 or index % every != full for index in range(n_layers)], window


def _recurrent(model: HasHparams, heads_kv: list[int]) -> list[bool]:
    """Return which layers have a recurrent state."""
    n_layers = number(model, "block_count")
    if model.architecture in RECURRENT:
        return [True] * n_layers
    if model.architecture not in _HYBRID:
        return [False] * n_layers
    if model.architecture in _EVERY_FOURTH:
        given = model.hparam("attention.recurrent_layers")
        if given is not None and not isinstance(given, (int, float)):
            return [bool(item) for item in given]
        every = number(model, "full_attention_interval", 4)
        return [(index + 1) % every != 0 for index in range(n_layers)]
    if model.architecture.startswith("nemotron_h"):
        widths = _per_layer(model, "feed_forward_length", n_layers, 0)
        return [heads == 0 and width == 0 for heads, width in zip(heads_kv, widths, strict=False)]
    return [heads == 0 for heads in heads_kv]


def _attends(model: HasHparams, index: int, is_recurrent: bool) -> bool:
    if model.architecture == "falcon-h1":
        return True
    if model.architecture.startswith("nemotron_h"):
        width = _per_layer(model, "feed_forward_length", index + 1, 0)[index]
        return not is_recurrent and width == 0
    return not is_recurrent


def _first_sharing(model: HasHparams, n_layers: int) -> int:
    """Return the first layer that shares another layer's cache."""
    if model.architecture == "gemma3n":
        return min(20, n_layers)
    if model.architecture == "gemma4":
        return n_layers - number(model, "attention.shared_kv_layers")
    return n_layers


def _state_width(model: HasHparams, heads: list[int]) -> int:
    """Return the size of one layer's state per sequence, in numbers: the convolution's last inputs, and the state."""
    width, head = number(model, "embedding_length"), number(model, "wkv.head_size")
    if head:  # RWKV; rwkv6qwen2 and arwkv7 shift one token, the others two
        return width * (number(model, "token_shift_count", 2) + head)
    if number(model, "shortconv.l_cache"):
        return width * (number(model, "shortconv.l_cache") - 1)
    inner, state = number(model, "ssm.inner_size"), number(model, "ssm.state_size")
    convolution = max(number(model, "ssm.conv_kernel") - 1, 0) * (inner + 2 * number(model, "ssm.group_count") * state)
    return convolution + state * inner


def _describe(layers: tuple[LayerMemory, ...], heads: list[int], heads_kv: list[int], *, has_latent: bool) -> str:
    caching = [index for index, layer in enumerate(layers) if layer.key_width]
    states = sum(layer.state_width > 0 for layer in layers)
    if not caching:
        return "recurrent state, no cache"
    pairs = {(heads[index], heads_kv[index]) for index in caching if index < len(heads)}
    if has_latent:
        kind = "latent attention (one compressed key per token)"
    elif all(n == kv for n, kv in pairs):
        kind = "multi-head attention"
    elif all(kv == 1 for _, kv in pairs):
        kind = "multi-query attention"
    else:
        kind = "grouped-query attention"
    windowed = sum(layer.is_windowed for layer in layers)
    if windowed:
        kind += f", a sliding window in {windowed} of {len(layers)} layers"
    return f"{kind}; a recurrent state in {states} of {len(layers)} layers" if states else kind
