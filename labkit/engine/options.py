"""The keyword arguments of ``load_model``: those of ``llama_cpp.Llama``, each checked before the engine sees it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.checks import check_flag, check_int, check_items, check_number, check_text, nearest, one_line, shown
from labkit.engine.settings import LoadRequest
from labkit.errors import ArgumentError, ArgumentTypeError, ModelNotFoundError
from labkit.kv_cache.size import cache_type
from labkit.system import load_engine

if TYPE_CHECKING:
    from labkit.load_check.facts import LoadFacts

MAX_THREADS = 512  # ggml's own limit, GGML_MAX_N_THREADS

_INTS = {
    "n_batch": (1, 16_384),
    "n_ubatch": (1, 16_384),
    "n_threads_batch": (1, MAX_THREADS),
    "split_mode": (0, 3),
    "main_gpu": (0, 15),
    "seed": (-1, 2**32 - 1),
    "rope_scaling_type": (-1, 3),
    "pooling_type": (-1, 4),
    "attention_type": (-1, 1),
    "yarn_orig_ctx": (0, 2**31 - 1),
    "last_n_tokens_size": (0, 2**20),
}
_NUMBERS = {
    "rope_freq_base": (0.0, 1e12),
    "rope_freq_scale": (0.0, 1e6),
    "yarn_ext_factor": (-1.0, 1e6),
    "yarn_attn_factor": (-1.0, 1e6),
    "yarn_beta_fast": (-1.0, 1e6),
    "yarn_beta_slow": (-1.0, 1e6),
    "lora_scale": (-1e4, 1e4),
}
# The model's own keys that can be overridden, and the minimum of each; the others describe the weights' shapes.
_CHANGEABLE: dict[str, float | None] = {
    "attention.layer_norm_epsilon": 1e-12, "attention.layer_norm_rms_epsilon": 1e-12, "attention.scale": 1e-12,
    "attention.sliding_window": 1, "attn_logit_softcapping": 1e-6, "context_length": 1, "embedding_scale": 1e-12,
    "expert_used_count": 1, "expert_weights_norm": None, "expert_weights_scale": 1e-12, "final_logit_softcapping": 1e-6,
    "logit_scale": 1e-12, "residual_scale": 1e-12, "rope.freq_base": 1e-6, "rope.scaling.attn_factor": 1e-6,
    "rope.scaling.factor": 1e-6, "rope.scaling.original_context_length": 1, "rope.scaling.type": None,
}  # fmt: skip
_FLAGS = {
    "embedding", "flash_attn", "logits_all", "no_perf", "offload_kqv", "op_offload", "spm_infill", "swa_full", "use_mlock",
    "use_mmap", "verbose", "vocab_only",
}  # fmt: skip


def check_request(n_ctx: Any, n_threads: Any, n_gpu_layers: Any, options: Mapping[str, Any]) -> LoadRequest:
    """Check everything that `load_model` passes on."""
    others = check_options(options)
    names = others.keys() & LoadRequest._fields
    return LoadRequest(
        n_ctx=check_int("n_ctx", n_ctx, 0, 2**31 - 1),
        n_threads=None
        if n_threads is None
        else check_int("n_threads", n_threads, 1, MAX_THREADS, hint="; None means this machine's physical cores"),
        n_gpu_layers=check_int("n_gpu_layers", n_gpu_layers, -1, 100_000, hint="; -1 means all layers"),
        **{name: others.pop(name) for name in names},
        others=others,
    )


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, checked; None counts as not given."""
    arguments = inspect.signature(load_engine().Llama.__init__)
    known = [name for name in arguments.parameters if name not in ("self", "model_path", "kwargs")] + ["override_tensor"]
    for name in options:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise ArgumentTypeError(f"load_model takes no argument {one_line(repr(name), 60)}: {hint}")
    return {name: _check(name, value) for name, value in options.items() if value is not None}


def _check(name: str, value: Any) -> Any:
    if name in _INTS:
        return check_int(name, value, *_INTS[name])
    if name in _NUMBERS:
        return check_number(name, value, *_NUMBERS[name])
    if name in _FLAGS:
        return check_flag(name, value)
    special = _SPECIAL.get(name)
    return value if special is None else special(name, value)


def _check_cache_type(name: str, value: Any) -> str:
    return cache_type(name, value).name.lower()


def _check_tensor_split(name: str, value: Any) -> list[float]:
    given = check_items(name, value, "shares, one per device, such as [0.7, 0.3]")
    if not 0 < len(given) <= 16:
        raise ArgumentError(f"{name} has {len(given)} shares: give 1 to 16, one per device")
    return [check_number(f"{name}[{index}]", share, 0.0, 1e6) for index, share in enumerate(given)]


def _check_overrides(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentTypeError(f"{name} must be a dict of metadata keys and values, not {shown(value)}")
    return {_check_override_key(name, key): _check_override_value(f"{name}[{key!r}]", item) for key, item in value.items()}


def _check_override_key(name: str, key: Any) -> str:
    if not isinstance(key, str) or not 0 < len(key.encode("utf-8", "replace")) < 128:
        raise ArgumentError(f"{name} has the key {shown(key)}: keys are texts of 1 to 127 bytes")
    group, _, rest = key.partition(".")
    if group == "tokenizer":
        may_change = rest.startswith("ggml.") and rest != "ggml.model"
    elif group == "general":
        may_change = rest not in ("architecture", "alignment")
    else:
        may_change = rest in _CHANGEABLE
    if not may_change:
        raise ArgumentError(
            f"{name}[{one_line(repr(key), 60)}] cannot be changed: it describes the weights in the file, and another value "
            f"would end the process; of the model's own keys these can: {', '.join(sorted(_CHANGEABLE))}"
        )
    return key


def _check_override_value(name: str, item: Any) -> bool | int | float | str:
    name = one_line(name, 80)
    if isinstance(item, (bool, str)):
        if isinstance(item, str) and (len(check_text(name, item)) > 127 or "\0" in item):
            raise ArgumentError(f"{name} must have no NUL and at most 127 bytes, llama.cpp's limit")
        return item
    if isinstance(item, float):
        return check_number(name, item, -1e30, 1e30)
    if isinstance(item, int):
        return check_int(name, item, -(2**31), 2**32 - 1)
    raise ArgumentTypeError(f"{name} must be a bool, int, float or str, not {shown(item)}")


def check_overrides_fit(overrides: Mapping[str, Any], facts: LoadFacts) -> None:
    """Refuse overrides that do not fit this model: keys of another architecture, values that do not match its weights."""
    for key, value in overrides.items():
        group, _, rest = key.partition(".")
        if rest not in _CHANGEABLE or group in ("general", "tokenizer"):
            continue
        if group != facts.architecture:
            raise ArgumentError(f"kv_overrides[{key!r}] does nothing: this model's keys begin with '{facts.architecture}.'")
        low = _CHANGEABLE[rest]
        if low is None:
            continue
        most = facts.hparam("expert_count", 0) if rest == "expert_used_count" else 2**31 - 1
        check_number(f"kv_overrides[{key!r}]", value, low, most if isinstance(most, int) else 0)


def _check_file(name: str, value: Any) -> str:
    path = Path(_text(name, value)).expanduser()
    if not path.is_file():
        raise ModelNotFoundError(f"{name}: there is no file {str(path)!r}: give the path of a LoRA adapter in GGUF")
    from labkit.gguf_file import read_header

    kind = read_header(path).metadata.get("general.type")
    if name == "lora_path" and kind != "adapter":
        raise ArgumentError(f"{name}={str(path)!r} is not a LoRA adapter: its general.type is {kind!r}, not 'adapter'")
    return str(path)


def _check_numa(name: str, value: Any) -> int | bool:
    return value if isinstance(value, bool) else check_int(name, value, 0, 4)


def _check_chat_format(name: str, value: Any) -> str:
    text = _text(name, value)
    registry = load_engine().llama_chat_format.LlamaChatCompletionHandlerRegistry
    known = sorted(registry()._chat_handlers)
    if text not in known:
        raise ArgumentError(f"{name}={one_line(repr(text), 60)} is unknown: choose {', '.join(known)}")
    return text


def _check_callable(name: str, value: Any) -> Any:
    if not callable(value):
        raise ArgumentTypeError(f"{name} must be a llama-cpp-python object that can be called, not {type(value).__name__}")
    return value


def _check_tokenizer(name: str, value: Any) -> Any:
    if not (hasattr(type(value), "tokenize") and hasattr(type(value), "detokenize")):
        raise ArgumentTypeError(f"{name} must have tokenize and detokenize, as llama_cpp.BaseLlamaTokenizer has")
    return value


def check_override_tensor(name: str, value: Any) -> tuple[str, ...]:
    """Return the patterns of tensors to keep on the CPU: "exps=CPU", several separated by commas, as for llama.cpp's -ot."""
    patterns = []
    for rule in _text(name, value).split(","):
        pattern, _, buffer = rule.rpartition("=")
        if not pattern or buffer != "CPU" or not pattern.isprintable() or not pattern.isascii():
            raise ArgumentError(f"{name}={shown(value)} must be a pattern and CPU, such as 'exps=CPU'")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ArgumentError(f"{name}={shown(value)} is not a regular expression: {error}") from None
        patterns.append(pattern)
    return tuple(patterns)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, (str, Path)):
        raise ArgumentTypeError(f"{name} must be text, not {type(value).__name__}")
    return str(value)


_SPECIAL = {
    "type_k": _check_cache_type,
    "type_v": _check_cache_type,
    "tensor_split": _check_tensor_split,
    "kv_overrides": _check_overrides,
    "override_tensor": check_override_tensor,
    "lora_path": _check_file,
    "lora_base": _check_file,
    "numa": _check_numa,
    "chat_format": _check_chat_format,
    "chat_handler": _check_callable,
    "draft_model": _check_callable,
    "tokenizer": _check_tokenizer,
}
