"""Which settings a model is loaded with, and why: chosen for a laptop's CPU unless the caller says otherwise."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from labkit.errors import ArgumentError, ModelLoadError
from labkit.records import Record
from labkit.units import format_bytes

if TYPE_CHECKING:
    from labkit.engine.devices import ModelDevices
    from labkit.engine.known_files import LoadFacts
    from labkit.system import EngineBuild

__all__ = ["ModelSettings", "choose_settings", "refuse_unfit"]

CELLS = 256  # llama.cpp rounds the context up to this
_SURELY_FITS = 256 * 1024**2  # asking the system for its free memory takes longer than such a cache needs a look
_CACHE_BYTES = {  # ggml type id -> bytes a block, weights a block
    0: (4, 1), 1: (2, 1), 30: (2, 1), 8: (34, 32), 2: (18, 32), 3: (20, 32), 6: (22, 32), 7: (24, 32), 20: (18, 32),
}  # fmt: skip
_CELL_BYTES = 52  # what llama.cpp keeps of a cell besides keys and values (measured)
# Their files may carry the key, but llama.cpp builds them with full attention.
_WINDOW_IGNORED = frozenset({"llama", "mistral", "qwen2", "qwen2moe", "qwen3"})


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ModelSettings(Record):
    """What a model was loaded with; ``reasons`` says why, a sentence a setting.

    Attributes
    ----------
    n_ctx : int
        Tokens that the context holds (rounded up to 256, as llama.cpp does).
    n_threads, n_threads_batch : int
        Threads for generating and for prompts.
    n_gpu_layers : int
        Layers on a GPU or another device; -1 is all.
    n_batch, n_ubatch : int
        Tokens that one call takes, and that one computation takes.
    use_mmap : bool
        Whether the file is mapped (its pages are the weights) or read into memory.
    flash_attn : bool
    swa_full : bool
        Whether sliding-window layers cache the whole context rather than their window.
    n_outputs_max : int
        Rows of logits kept a computation; 0 is ``n_batch``.
    type_k, type_v : int
        ggml type ids of the cache; 1 is F16.
    reasons : dict
        Setting -> why it was chosen.
    warnings : tuple of str
        What may go wrong with this model.
    devices : tuple of str
        Where the layers on devices are, if the caller said where; in the order of the layers.
    """

    n_ctx: int
    n_threads: int
    n_threads_batch: int
    n_gpu_layers: int
    n_batch: int
    n_ubatch: int
    use_mmap: bool
    flash_attn: bool
    swa_full: bool
    n_outputs_max: int
    type_k: int
    type_v: int
    reasons: dict[str, str]
    warnings: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def choose_settings(
    facts: LoadFacts,
    build: EngineBuild,
    n_ctx: int,
    n_threads: int,
    n_gpu_layers: int,
    options: dict[str, Any],
    devices: ModelDevices | None = None,
) -> ModelSettings:
    """Choose what the caller left open.

    Parameters
    ----------
    options : dict
        The caller's own keyword arguments, checked; what is None or absent is chosen here.
    devices : ModelDevices or None
        What the caller named for the layers; None is this machine's own GPUs.
    """
    reasons: dict[str, str] = {}
    type_k, type_v = options.get("type_k", 1), options.get("type_v", 1)
    cells = _round_up(n_ctx or int(facts.hparam("context_length", 0) or 512), CELLS)
    n_batch = min(options.get("n_batch") or 512, cells)
    all_rows = bool(options.get("logits_all") or options.get("embedding") or options.get("draft_model"))
    reasons["n_outputs_max"] = (
        "all rows, as logits_all, embedding or draft_model need them"
        if all_rows
        else "one row of logits: the next token needs no more, and 512 rows of a large vocabulary take 100s of MiB"
    )
    on_gpu = n_gpu_layers != 0 and (devices is None or devices.has_gpu)
    if devices is not None:
        reasons["devices"] = _say_devices(devices, n_gpu_layers, "tensor_split" in options)
    return ModelSettings(
        n_ctx=cells,
        n_threads=n_threads,
        n_threads_batch=options.get("n_threads_batch") or n_threads,
        n_gpu_layers=n_gpu_layers,
        n_batch=n_batch,
        n_ubatch=min(options.get("n_ubatch") or 512, n_batch),
        use_mmap=_given(options, "use_mmap", lambda: _choose_mmap(facts, build, reasons)),
        flash_attn=_given(options, "flash_attn", lambda: _choose_flash(facts, on_gpu, type_v, reasons)),
        swa_full=_given(options, "swa_full", lambda: False),
        n_outputs_max=0 if all_rows else 1,
        type_k=type_k,
        type_v=type_v,
        reasons=reasons,
        warnings=_warn(facts, cells),
        devices=() if devices is None else devices.names,
    )


def _given(options: dict[str, Any], name: str, choose: Any) -> bool:
    value = options.get(name)
    return bool(choose() if value is None else value)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _choose_mmap(facts: LoadFacts, build: EngineBuild, reasons: dict[str, str]) -> bool:
    """Map the file only where its pages can be used as they are.

    llama.cpp copies some types of weights into another order for this CPU; mapped, both copies stay in memory.
    """
    total = facts.weights_bytes
    repacked = sum(
        n_bytes for name, kind, rows, columns, n_bytes in facts.matrices if _moves(name, kind, rows, columns, build)
    )
    if repacked > 0.02 * total:
        reasons["use_mmap"] = (
            f"read, not mapped: this CPU wants {format_bytes(repacked)} of the weights in another order, "
            "and a mapped file would stay in memory beside that copy"
        )
        return False
    reasons["use_mmap"] = "mapped: the weights are used as they lie in the file, and the system can share and drop its pages"
    return True


def _moves(name: str, kind: str, rows: int, columns: int, build: EngineBuild) -> bool:
    from labkit.system import is_repacked

    if not name.endswith(".weight") or name.startswith("token_embd"):
        return False
    return is_repacked(kind, rows, columns, build.features)


def _choose_flash(facts: LoadFacts, on_gpu: bool, type_v: int, reasons: dict[str, str]) -> bool:
    """Use flash attention only where it makes decoding faster (measured, see the README's figures)."""
    if _CACHE_BYTES.get(type_v, (0, 1))[1] > 1:
        reasons["flash_attn"] = "on: a quantized V cache needs it"
        return True
    if on_gpu:
        reasons["flash_attn"] = "on: faster on a GPU"
        return True
    if facts.hparam("attention.sliding_window", 0) and facts.architecture not in _WINDOW_IGNORED:
        reasons["flash_attn"] = "on: a sliding window keeps attention short, where it is a little faster"
        return True
    reasons["flash_attn"] = "off: on a CPU decoding is as fast without it, and on some up to twice as fast in a long context"
    return False


def _say_devices(devices: ModelDevices, n_gpu_layers: int, split: bool) -> str:
    if n_gpu_layers == 0:
        return "unused: n_gpu_layers=0 leaves every layer on this CPU"
    layers = "all layers" if n_gpu_layers < 0 else f"the last {n_gpu_layers:,} layers (the output counts as one)"
    if devices.n_devices == 1:
        return f"{layers} on it, the rest on this CPU"
    how = "by tensor_split" if split else "evenly"
    return f"{layers} on {devices.n_devices} devices in this order, {how}; the rest on this CPU"


def _warn(facts: LoadFacts, cells: int) -> tuple[str, ...]:
    trained = facts.hparam("context_length", 0)
    if isinstance(trained, int) and 0 < _round_up(trained, CELLS) < cells:
        return (f"n_ctx={cells:,} is beyond the {trained:,} tokens that this model was trained on: expect poor text there",)
    return ()


def refuse_unfit(facts: LoadFacts, settings: ModelSettings) -> None:
    """Refuse a cache that cannot fit: filling it would make the system end the process."""
    from labkit.system import available_ram_bytes

    if _CACHE_BYTES.get(settings.type_v, (0, 1))[1] > 1 and not settings.flash_attn:
        raise ArgumentError("a quantized V cache (type_v) needs flash attention: leave flash_attn out, or set it to True")
    if settings.n_gpu_layers != 0:
        return
    a_token = _cache_bytes_a_token(facts, settings.type_k, settings.type_v)
    if a_token * settings.n_ctx < _SURELY_FITS:
        return
    available = available_ram_bytes()
    if a_token * settings.n_ctx > available:
        fitting = max(int(available * 0.8 / a_token) // CELLS * CELLS, CELLS)
        raise ModelLoadError(
            f"the cache for n_ctx={settings.n_ctx:,} takes {format_bytes(a_token * settings.n_ctx)}, but this process may "
            f"use {format_bytes(available)} of RAM now: choose n_ctx={fitting:,} or less, or type_k='q8_0', type_v='q8_0'"
        )


def _cache_bytes_a_token(facts: LoadFacts, type_k: int, type_v: int) -> int:
    """Return a lower bound of the cache's bytes a token.

    Layers with a sliding window or a recurrent state count nothing; the list of the cells themselves always counts.
    """
    n_layers = int(facts.hparam("block_count", 0) or 0)
    n_heads = facts.hparam("attention.head_count", 1)
    per_layer = facts.hparam("attention.head_count_kv", n_heads)
    heads = [int(n) for n in per_layer] if isinstance(per_layer, (tuple, list)) else [int(per_layer or 1)] * n_layers
    if facts.hparam("attention.sliding_window", 0) and facts.architecture not in _WINDOW_IGNORED:
        return _CELL_BYTES
    if facts.hparam("ssm.state_size", 0) or facts.hparam("attention.key_length_mla", 0) or facts.hparam("wkv.head_size", 0):
        return _CELL_BYTES
    widest = max((int(n) for n in n_heads), default=1) if isinstance(n_heads, (tuple, list)) else int(n_heads or 1)
    head_dim = int(facts.hparam("embedding_length", 0) or 0) // max(widest, 1)
    key = int(facts.hparam("attention.key_length", head_dim) or head_dim)
    value = int(facts.hparam("attention.value_length", head_dim) or head_dim)
    return _CELL_BYTES + sum(_row(type_k, key * n) + _row(type_v, value * n) for n in heads)


def _row(type_id: int, width: int) -> int:
    block_bytes, block = _CACHE_BYTES.get(type_id, (2, 1))
    return width * block_bytes // block
