"""The settings a model is loaded with, and why: chosen for a laptop's CPU unless given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.errors import ModelLoadError
from labkit.gguf_file.formats import tensor_type
from labkit.kv_cache import CELLS
from labkit.kv_cache.layers import model_layers
from labkit.kv_cache.size import cache_bytes, cache_shape, check_cache_types
from labkit.records import Record
from labkit.units import format_bytes, round_up

if TYPE_CHECKING:
    from labkit.devices.borrow import ModelDevices
    from labkit.load_check.facts import LoadFacts
    from labkit.system import EngineBuild

_OF_LLAMA = (
    "n_ctx", "n_threads", "n_threads_batch", "n_gpu_layers", "n_batch", "n_ubatch", "use_mmap", "flash_attn", "swa_full",
)  # fmt: skip
_SURELY_FITS = 256 * 1024**2  # checking the free memory is not worth its time for a smaller cache
_CELL_BYTES = 52  # per cell, besides keys and values (measured)


class LoadRequest(NamedTuple):
    """The checked arguments of `load_model`; `choose_settings` replaces None."""

    n_ctx: int = 2048
    n_threads: int | None = None
    n_gpu_layers: int = 0
    n_threads_batch: int | None = None
    n_batch: int = 512
    n_ubatch: int = 512
    use_mmap: bool | None = None
    flash_attn: bool | None = None
    swa_full: bool = False
    type_k: str = "f16"
    type_v: str = "f16"
    others: Mapping[str, Any] = MappingProxyType({})  # Llama's, passed on unchanged


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ModelSettings(Record):
    """The settings of a loaded model; ``reasons`` explains each in a sentence.

    Attributes
    ----------
    n_ctx : int
        Size of the context in tokens (rounded up to 256, as llama.cpp does).
    n_threads, n_threads_batch : int
        Threads for decoding and for prompts; the maximum if ``adapt_threads``.
    adapt_threads : bool
        Whether fewer threads run while other programs need the cores; ``last_generation.n_threads`` has the actual number.
    n_gpu_layers : int
        Layers on a GPU or another device; -1 means all.
    n_batch, n_ubatch : int
        Maximum tokens per call and per computation.
    use_mmap : bool
        Whether the file is mapped (its pages are the weights) or read into memory.
    flash_attn : bool
    swa_full : bool
        Whether sliding-window layers cache the whole context instead of their window.
    n_outputs_max : int
        Rows of logits kept per computation; 0 means ``n_batch``.
    type_k, type_v : str
        Types of the cache: ``"f16"``, ``"q8_0"``, …
    reasons : dict
        Setting -> why it was chosen.
    warnings : tuple of str
        Possible problems with this model.
    devices : tuple of str
        Names of the given devices, in the order of their layers.
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
    type_k: str
    type_v: str
    reasons: dict[str, str]
    adapt_threads: bool = False
    warnings: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    def llama_arguments(self) -> dict[str, Any]:
        """Return the arguments for ``llama_cpp.Llama``: cache types as ggml's numbers, the threads that have a core."""
        types = {name: tensor_type(self[name]).id for name in ("type_k", "type_v")}
        threads = {name: _within_cores(self[name]) for name in ("n_threads", "n_threads_batch")}
        return {**{name: self[name] for name in _OF_LLAMA}, **types, **threads}


def _within_cores(n_threads: int) -> int:
    """Return how many of a given number of threads have a logical core that this process may use."""
    if n_threads == 1:  # asks nothing of the machine: estimates also run where psutil cannot, as in a browser
        return 1
    from labkit.system import logical_cores_available

    return min(n_threads, logical_cores_available())


def choose_settings(
    request: LoadRequest, facts: LoadFacts, build: EngineBuild, devices: ModelDevices | None = None
) -> ModelSettings:
    """Choose the settings that were not given; without ``devices``, layers go to this machine's GPUs."""
    from labkit.system import physical_cores_available

    reasons: dict[str, str] = {}
    most = request.n_threads or physical_cores_available()
    reasons["n_threads"] = (
        f"up to the {most} physical cores that this process may use, fewer while other programs need them"
        if not request.n_threads
        else "as given"
        if (computing := _within_cores(most)) == most
        else f"as given, but no more than {computing} compute: this process has no more cores, and threads without one hold "
        "up the others at every step"
    )
    cells = round_up(request.n_ctx or int(facts.hparam("context_length", 0) or 512), CELLS)
    n_batch = min(request.n_batch, cells)
    all_rows = any(request.others.get(name) for name in ("logits_all", "embedding", "draft_model"))
    reasons["n_outputs_max"] = (
        "all rows, as logits_all, embedding or draft_model need them"
        if all_rows
        else "one row of logits: the next token needs no more, and 512 rows of a large vocabulary use hundreds of MiB"
    )
    on_gpu = request.n_gpu_layers != 0 and (devices is None or devices.has_gpu)
    if devices is not None:
        reasons["devices"] = _say_devices(devices, request.n_gpu_layers, "tensor_split" in request.others)
    use_mmap, flash_attn = request.use_mmap, request.flash_attn
    if use_mmap is None:
        pinned = any(gpu.pins_memory for gpu in build.gpus) and (devices is None or devices.has_local_gpu)
        use_mmap = _choose_mmap(facts, build, reasons, pinned=pinned)
    if flash_attn is None:
        flash_attn = _choose_flash(facts, on_gpu, request.type_v, reasons)
    return ModelSettings(
        n_ctx=cells,
        n_threads=most,
        n_threads_batch=request.n_threads_batch or most,
        n_gpu_layers=request.n_gpu_layers,
        n_batch=n_batch,
        n_ubatch=min(request.n_ubatch, n_batch),
        use_mmap=use_mmap,
        flash_attn=flash_attn,
        swa_full=request.swa_full,
        n_outputs_max=0 if all_rows else 1,
        type_k=request.type_k,
        type_v=request.type_v,
        reasons=reasons,
        adapt_threads=request.n_threads is None,
        warnings=_warn(facts, cells),
        devices=() if devices is None else devices.names,
    )


def _choose_mmap(facts: LoadFacts, build: EngineBuild, reasons: dict[str, str], *, pinned: bool) -> bool:
    """Map the file only where its pages can be used directly.

    llama.cpp repacks some types of weights for this CPU; with a mapped file, both copies stay in memory. With a GPU it
    repacks nothing, and reads the file into pinned RAM: with half of a 7B model's layers on an H100, prompts ran 2.6 times
    as fast as from a mapped file.
    """
    if pinned:
        reasons["use_mmap"] = (
            "read, not mapped: into pinned RAM, from which the GPU reads the CPU's layers faster for prompts"
        )
        return False
    total = facts.weights_bytes
    repacked = sum(
        n_bytes for name, kind, rows, columns, n_bytes in facts.matrices if _moves(name, kind, rows, columns, build)
    )
    if repacked > 0.02 * total:
        reasons["use_mmap"] = (
            f"read, not mapped: {format_bytes(repacked)} of the weights are repacked for this CPU, "
            "and with a mapped file these weights would be held twice"
        )
        return False
    reasons["use_mmap"] = "mapped: weights are used directly from the file mapping; the system can share and drop its pages"
    return True


def _moves(name: str, kind: str, rows: int, columns: int, build: EngineBuild) -> bool:
    from labkit.system import is_repacked

    if not name.endswith(".weight") or name.startswith("token_embd"):
        return False
    return is_repacked(kind, rows, columns, build.features)


def _choose_flash(facts: LoadFacts, on_gpu: bool, type_v: str, reasons: dict[str, str]) -> bool:
    """Use flash attention only where it makes decoding faster (measured, see the README's figures)."""
    if tensor_type(type_v).is_quantized:
        reasons["flash_attn"] = "on: a quantized V cache needs it"
        return True
    if on_gpu:
        reasons["flash_attn"] = (
            "on: faster on a GPU (with layers left on the CPU: for prompts; in a long context these layers decode faster "
            "without it)"
        )
        return True
    if model_layers(facts).window:
        reasons["flash_attn"] = "on: slightly faster for the short attention of sliding windows"
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
    if isinstance(trained, int) and 0 < round_up(trained, CELLS) < cells:
        return (f"n_ctx={cells:,} is beyond the {trained:,} tokens that this model was trained on: expect poor text there",)
    return ()


def refuse_unfit(facts: LoadFacts, settings: ModelSettings) -> None:
    """Refuse a cache of types that the engine refuses, or that does not fit into RAM: the system would kill the process."""
    from labkit.system import available_ram_bytes

    types = tensor_type(settings.type_k), tensor_type(settings.type_v)
    check_cache_types(model_layers(facts), *types, flash_attn=settings.flash_attn)
    if settings.n_gpu_layers != 0:
        return
    needed = _cache_bytes(facts, settings, settings.n_ctx)
    if needed < _SURELY_FITS:
        return
    available = available_ram_bytes()
    if needed > available:
        fitting = max(int(settings.n_ctx * available * 0.8 / needed) // CELLS * CELLS, CELLS)
        raise ModelLoadError(
            f"the cache for n_ctx={settings.n_ctx:,} needs {format_bytes(needed)}, but this process may "
            f"use {format_bytes(available)} of RAM now: choose n_ctx={fitting:,} or less, or type_k='q8_0', type_v='q8_0'"
        )


def _cache_bytes(facts: LoadFacts, settings: ModelSettings, n_ctx: int) -> int:
    """Return the bytes of a cache with its cells; only the cells if the architecture is unknown."""
    layers = model_layers(facts)
    shape = cache_shape(layers, n_ctx, n_ubatch=settings.n_ubatch, swa_full=settings.swa_full)
    cells = _CELL_BYTES * shape.n_cells
    if not layers.is_known:
        return cells
    types = {"key": tensor_type(settings.type_k), "value": tensor_type(settings.type_v)}
    hosts = [0] * len(layers.layers)
    return cells + sum(cache_bytes(layers, hosts, shape, **types, flash_attn=settings.flash_attn).values())
