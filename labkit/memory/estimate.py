"""estimate_memory_usage: the memory a model needs, before it is loaded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.checks import check_int
from labkit.errors import ArgumentError, ArgumentTypeError, GGUFError, ModelLoadError
from labkit.gguf_file import Header, LazyArray
from labkit.gguf_file.formats import TensorType
from labkit.gguf_file.preflight import preflight
from labkit.kv_cache.layers import ModelLayers, model_layers
from labkit.kv_cache.size import CacheShape, cache_bytes, cache_shape, cache_type, rotates, state_bytes
from labkit.memory.compute_buffer import Batch, graph_bytes, graph_bytes_by_device
from labkit.memory.records import MemoryEstimate, MemoryPart
from labkit.memory.weights import HOST, WeightBuffer, place_layers, place_weights
from labkit.memory.work import work_bytes
from labkit.model_info import read_model_header
from labkit.system import available_ram_bytes, resident_bytes
from labkit.units import format_bytes, round_up

if TYPE_CHECKING:
    from labkit.memory.dry_run import Simulation
    from labkit.system import EngineBuild

__all__ = ["estimate_memory_usage"]

MIB = 1024**2
# Measured with CPython 3.11 on Linux; a dry run measures the first three on this machine.
_PROCESS = 45 * MIB  # Python with labkit's engine
_VOCABULARY = 160  # per token
_MERGES = 170  # per merge of byte-pair encoding
_CELL = 52  # per cell of the cache, in addition to keys and values
_LOADED = 4 * MIB  # other memory of a loaded model
# What CUDA adds, measured with CUDA 13 and an H100: its libraries in the process (a dry run measures them too), and the
# kernels that a computation loads, in RAM and on the GPU; attention without flash attention also needs cuBLAS.
_CUDA_PROCESS = 260 * MIB
_CUDA_KERNELS, _CUDA_KERNELS_GPU = 64 * MIB, 90 * MIB
_CUBLAS, _CUBLAS_GPU = 96 * MIB, 160 * MIB
_GENERATION = 4 * MIB  # sampler, threads, and freed memory that the C library keeps
METHODS = ("auto", "formula", "simulate")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that determines a model's memory, checked and with defaults filled in."""

    header: Header
    layers: ModelLayers
    cells: CacheShape
    batch: Batch
    key: TensorType
    value: TensorType
    use_mmap: bool
    n_batch: int
    n_ubatch: int
    n_seq: int
    n_outputs_max: int
    swa_full: bool
    kv_unified: bool
    layer_devices: tuple[int, ...]
    device_names: tuple[str, ...]
    features: tuple[str, ...]
    gpu_layers: int | None  # on this machine's GPUs; None where the dry run cannot put layers on the devices
    has_cuda: bool

    def name(self, device: int) -> str:
        """Return a device's name by its number."""
        return "CPU" if device == HOST else self.device_names[device]


def estimate_memory_usage(
    model_path: str | Path | None = None,
    n_ctx: int = 2048,
    *,
    n_gpu_layers: int = 0,
    type_k: str | int = "f16",
    type_v: str | int = "f16",
    n_batch: int = 512,
    n_ubatch: int = 512,
    n_seq: int = 1,
    use_mmap: bool | None = None,
    flash_attn: bool | str = "auto",
    swa_full: bool = False,
    method: str = "auto",
    kv_unified: bool = False,
    n_outputs_max: int | None = None,
    devices: Sequence[Any] | None = None,
    tensor_split: Sequence[float] | None = None,
) -> MemoryEstimate:
    """Estimate the memory `load_model` with the same arguments needs with a full context.

    Parameters
    ----------
    model_path : str, Path or None
        As for `get_model_info`: a file, a name, or an address (only the header is read). None is the bundled model.
    n_ctx : int
        Context size in tokens, all sequences together; 0 is the model's training context.
    n_gpu_layers : int
        Layers on a device, the output counts as one; -1 is all. The figures assume such a device even where this machine has
        none.
    type_k, type_v : str
        Types of the cache: ``"f16"``, ``"q8_0"``, …
    n_seq : int
        Sequences decoded together, each with separate cells unless ``kv_unified``.
    use_mmap, flash_attn : bool, None or "auto"
        None and ``"auto"``: as `load_model` chooses on this machine.
    swa_full : bool
        Whether layers with a sliding window cache the whole context.
    method : str
        ``"formula"`` uses only the header. ``"simulate"`` runs llama.cpp in a dry run that allocates nothing.
        ``"auto"`` takes the compute buffer and the runtime from the dry run, the rest from the formula where it knows the
        architecture.
    n_outputs_max : int, optional
        Rows of logits per computation; None is one per sequence, as in `load_model`; 0 is ``n_batch``, as in
        llama-cpp-python.
    devices : sequence, optional
        As for `load_model`; determines how many devices share the layers, one by default.
    tensor_split : sequence of float, optional
        The devices' shares; equal by default.

    Raises
    ------
    ModelNotFoundError, GGUFError, ArgumentError, ArgumentTypeError
        As in `load_model`.
    ModelLoadError
        With ``method="simulate"``: llama.cpp cannot lay out the model.

    Notes
    -----
    The cache and the weights are exact to the byte. The compute buffer has no closed form: the formula simulates ggml's
    allocator on an outline of the graph, exactly for the usual transformers and approximately for others. The runtime is
    measured.

    Examples
    --------
    >>> estimate = estimate_memory_usage(n_ctx=2048, method="formula")
    >>> estimate.kv_cache_bytes == 2048 * 30 * 2 * (3 * 64) * 2  # cells, layers, K and V, 3 heads of 64, f16
    True
    """
    if method not in METHODS:
        raise ArgumentError(f"method={method!r} is unknown: choose {', '.join(METHODS)}")
    plan = make_plan(
        read_model_header(model_path),
        n_ctx,
        n_gpu_layers=n_gpu_layers,
        type_k=type_k,
        type_v=type_v,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_seq=n_seq,
        use_mmap=use_mmap,
        flash_attn=flash_attn,
        swa_full=swa_full,
        kv_unified=kv_unified,
        n_outputs_max=n_outputs_max,
        devices=devices,
        tensor_split=tensor_split,
    )
    return estimate_plan(plan, method)


def make_plan(header: Header, n_ctx: int, **given: Any) -> Plan:
    """Check the arguments of `estimate_memory_usage` and fill in what `load_model` would choose."""
    from labkit.engine.load_facts import facts_of
    from labkit.engine.settings import LoadRequest, choose_settings

    for name, low in (("n_ctx", 0), ("n_batch", 1), ("n_ubatch", 1), ("n_seq", 1), ("n_gpu_layers", -1)):
        check_int(name, n_ctx if name == "n_ctx" else given[name], low, 2**31 - 1)
    key, value = cache_type("type_k", given["type_k"]), cache_type("type_v", given["type_v"])
    flash = None if given["flash_attn"] == "auto" else given["flash_attn"]
    for name, flag in (("flash_attn", flash), ("use_mmap", given["use_mmap"])):
        if flag is not None and not isinstance(flag, bool):
            raise ArgumentTypeError(f"{name} must be True, False or omitted, not {flag!r}")
    preflight(header, vocabulary=False)  # no figures for a model that load_model would refuse
    build = _engine()
    served = given["devices"]
    if served is not None and not any(gpu.name in served for gpu in build.gpus):  # this machine's GPUs are not used
        build = build.replace(has_gpu=False, devices=tuple(device for device in build.devices if device not in build.gpus))
    request = LoadRequest(
        n_ctx=n_ctx,
        n_threads=1,
        n_gpu_layers=given["n_gpu_layers"] if build.has_gpu else 0,
        n_batch=given["n_batch"],
        n_ubatch=given["n_ubatch"],
        use_mmap=given["use_mmap"],
        flash_attn=flash,
        type_k=key.name.lower(),
        type_v=value.name.lower(),
    )
    settings = choose_settings(request, facts_of(header), build)
    if value.is_quantized and not settings.flash_attn:
        raise ArgumentError("a quantized V cache (type_v) needs flash attention: leave flash_attn out, or set it to True")
    layers = model_layers(header)
    n_seq = given["n_seq"]
    cells = cache_shape(
        layers,
        settings.n_ctx,
        n_seq=n_seq,
        n_ubatch=settings.n_ubatch,
        unified=given["kv_unified"],
        swa_full=given["swa_full"],
    )
    wanted = given["n_outputs_max"]
    n_outputs = n_seq if wanted is None else wanted or settings.n_batch
    names, shares = _devices(served, given["tensor_split"], bool(given["n_gpu_layers"]) or build.has_gpu)
    return Plan(
        header=header,
        layers=layers,
        cells=cells,
        batch=_batch(layers, cells, key, value, settings.n_ubatch, n_outputs, n_seq, settings.flash_attn),
        key=key,
        value=value,
        use_mmap=settings.use_mmap,
        n_batch=settings.n_batch,
        n_ubatch=settings.n_ubatch,
        n_seq=n_seq,
        n_outputs_max=n_outputs,
        swa_full=given["swa_full"],
        kv_unified=given["kv_unified"],
        layer_devices=tuple(place_layers(len(layers.layers), given["n_gpu_layers"], shares)),
        device_names=names,
        features=build.weight_features,
        gpu_layers=given["n_gpu_layers"] if served is None and build.has_gpu else None,
        has_cuda=build.has_gpu and "CUDA" in build.backends,
    )


@functools.lru_cache(maxsize=1)
def _engine() -> EngineBuild:
    from labkit.system import engine_build

    return engine_build()


def _devices(
    served: Sequence[Any] | None, tensor_split: Sequence[float] | None, has_device: bool
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the names of the devices that share the layers, and their shares."""
    if served is not None:
        names = tuple(str(getattr(device, "endpoint", device)) for device in served)
    else:
        names = ("device",) if has_device else ()
    shares = tuple(float(share) for share in tensor_split) if tensor_split is not None else (1.0,) * len(names)
    if len(shares) != len(names) or any(not share >= 0 for share in shares) or (names and not sum(shares) > 0):
        raise ArgumentError(f"tensor_split={tensor_split!r} needs a share of 0 or more for each of {len(names)} devices")
    return names, shares


def _batch(
    layers: ModelLayers,
    cells: CacheShape,
    key: TensorType,
    value: TensorType,
    n_ubatch: int,
    n_outputs: int,
    n_seq: int,
    flash_attn: bool,
) -> Batch:
    """Return the batch that llama.cpp reserves memory for: whole sequences, and the requested rows of logits."""
    tokens = min(cells.n_ctx, n_ubatch)
    outputs = min(tokens, n_outputs)
    if tokens % n_seq:
        tokens = round_up(tokens, n_seq)
        outputs = max(outputs, tokens)
    caching = [layer for layer in layers.layers if layer.key_width]
    latent = any(not layer.value_width for layer in caching)
    return Batch(
        n_tokens=tokens,
        n_outputs=outputs,
        n_seq=n_seq,
        n_cells=cells.n_cells,
        n_window_cells=cells.n_window_cells,
        flash_attn=flash_attn,
        rotates_keys=not latent and rotates([layer.key_length for layer in caching], key),
        rotates_values=not latent and rotates([layer.value_length for layer in caching], value),
    )


def estimate_plan(plan: Plan, method: str) -> MemoryEstimate:
    """Estimate the memory of a plan; see `estimate_memory_usage`."""
    assumptions = [f"{plan.header.architecture}: {plan.layers.layout}"]
    simulated = _simulated(plan, method, assumptions)
    if not plan.layers.is_checked:
        name = plan.header.architecture
        doubt = f"the rules for {name} are untested" if plan.layers.is_known else f"the formula does not know {name}"
        remedy = "the cache is llama.cpp's own figure" if simulated else "plain attention assumed"
        assumptions.append(doubt if plan.layers.is_known and not simulated else f"{doubt}: {remedy}")
    if plan.device_names == ("device",) and not _engine().has_gpu:
        assumptions.append("this llama.cpp has no GPU: load_model keeps all layers on the CPU unless devices=[…] names one")
    parts = _parts(plan, simulated, method, assumptions)
    return _summed(plan, parts, assumptions, method if simulated is not None else "formula")


def _simulated(plan: Plan, method: str, assumptions: list[str]) -> Simulation | None:
    from labkit.memory.dry_run import simulate

    if method == "formula":
        return None
    if not plan.header.paths:
        if method == "simulate":
            raise ArgumentError(f"{plan.header.source} is on a server, and a dry run needs the file: use method='formula'")
        assumptions.append("the file is on a server, so all figures are by formula")
        return None
    try:
        return simulate(
            plan.header.paths[0],
            n_ctx=plan.cells.n_ctx,
            n_batch=plan.n_batch,
            n_ubatch=plan.n_ubatch,
            n_gpu_layers=plan.gpu_layers or 0,
            n_seq=plan.n_seq,
            n_outputs_max=plan.n_outputs_max,
            type_k=plan.key.name,
            type_v=plan.value.name,
            flash_attn=plan.batch.flash_attn,
            swa_full=plan.swa_full,
            kv_unified=plan.kv_unified,
        )
    except ModelLoadError as error:
        if method == "simulate":
            raise
        assumptions.append(f"all figures are by formula, because the dry run failed: {error}")
        return None


def _parts(plan: Plan, simulated: Simulation | None, method: str, assumptions: list[str]) -> list[MemoryPart]:
    buffers = place_weights(plan.header, plan.layer_devices, mapped=plan.use_mmap, features=plan.features)
    caches = cache_bytes(
        plan.layers, plan.layer_devices, plan.cells, key=plan.key, value=plan.value, flash_attn=plan.batch.flash_attn
    )
    states = state_bytes(plan.layers, plan.layer_devices, plan.n_seq)
    if simulated is not None and (method == "simulate" or not plan.layers.is_checked):
        caches = _rescaled(caches, simulated.kv_cache_bytes)
        states = _rescaled(states, simulated.recurrent_state_bytes)
    parts = [_weights_part(plan, buffer) for buffer in buffers]
    parts += [_part(plan, "cache", device, size, _cache_formula(plan)) for device, size in sorted(caches.items()) if size]
    parts += [_part(plan, "state", device, size, _state_formula(plan)) for device, size in sorted(states.items()) if size]
    parts += _compute_parts(plan, simulated, assumptions)
    rows = min(plan.n_seq, plan.cells.n_ctx)
    logits = 4 * rows * n_vocab(plan.header)
    parts.append(_part(plan, "output", HOST, logits, f"{rows} row(s) of {n_vocab(plan.header):,} logits, 4 bytes each"))
    parts.append(_runtime_part(plan, simulated, assumptions))
    if plan.has_cuda:
        size = _CUDA_KERNELS_GPU + (0 if plan.batch.flash_attn else _CUBLAS_GPU)
        parts.append(_part(plan, "runtime", 0, size, "CUDA's kernels and work space, as measured on an H100"))
    if plan.use_mmap:
        assumptions.append("mapped weights count as resident: the system can drop their pages and read them again")
    return parts


def _rescaled(by_device: dict[int, int], total: int) -> dict[int, int]:
    """Divide llama.cpp's total among devices in the formula's proportions."""
    known = sum(by_device.values())
    if not known or known == total:
        return by_device or ({HOST: total} if total else {})
    shared = {device: size * total // known for device, size in by_device.items()}
    first = min(shared)
    shared[first] += total - sum(shared.values())
    return shared


def _part(plan: Plan, name: str, device: int, size: int, formula: str) -> MemoryPart:
    return MemoryPart(name, plan.name(device), "memory" if device == HOST else "device", size, size, formula)


def _weights_part(plan: Plan, buffer: WeightBuffer) -> MemoryPart:
    backing = {"mapped": "file"}.get(buffer.kind, "memory") if buffer.device == HOST else "device"
    formula = {
        "mapped": "the file's pages from the first tensor to the last",
        "loaded": "the sum of the tensors, each padded to 32 bytes",
        "repacked": "tensors repacked for this CPU's instructions",
    }[buffer.kind]
    name = "repacked weights" if buffer.kind == "repacked" else "weights"
    return MemoryPart(name, plan.name(buffer.device), backing, buffer.n_bytes, buffer.n_bytes, formula)


def _cache_formula(plan: Plan) -> str:
    caching = [layer for layer in plan.layers.layers if layer.key_width]
    windowed = sum(layer.is_windowed for layer in caching)
    streams = f"{plan.cells.n_streams} x " if plan.cells.n_streams > 1 else ""
    row = f"a row of {caching[0].key_width:,} {plan.key.name.lower()}"
    row += f" and {caching[0].value_width:,} {plan.value.name.lower()}" if caching[0].value_width else ""
    formula = f"{len(caching) - windowed} layers x {streams}{plan.cells.n_cells:,} cells x {row}"
    return formula + (f"; {windowed} layers with {plan.cells.n_window_cells:,} cells" if windowed else "")


def _state_formula(plan: Plan) -> str:
    layers = [layer.state_width for layer in plan.layers.layers if layer.state_width]
    return (
        f"{len(layers)} layers x {plan.n_seq} sequence(s) x {layers[0]:,} numbers of 4 bytes"
        if layers
        else "llama.cpp's own figure"
    )


def _compute_parts(plan: Plan, simulated: Simulation | None, assumptions: list[str]) -> list[MemoryPart]:
    """Return the compute buffers: one on the host, one on each device that computes layers."""
    formula = f"{plan.batch.n_tokens} tokens through the graph at once, laid out as ggml does"
    try:
        sizes = _compute_bytes(plan, simulated, assumptions)
    except LookupError as error:
        raise GGUFError(f"{plan.header.source}: its tensors are not a complete {plan.header.architecture} model") from error
    return [_part(plan, "compute", device, size, formula) for device, size in sorted(sizes.items())]


def _compute_bytes(plan: Plan, simulated: Simulation | None, assumptions: list[str]) -> dict[int, int]:
    if simulated is not None and (plan.gpu_layers is not None or set(plan.layer_devices) == {HOST}):
        on_device = simulated.device_compute_bytes
        return {HOST: simulated.compute_buffer_bytes - on_device} | ({0: on_device} if on_device else {})
    if set(plan.layer_devices) != {HOST}:
        assumptions.append("compute buffers with layers on devices are by formula: the dry run uses only the CPU")
        return graph_bytes_by_device(plan.header, plan.layers, plan.batch, plan.layer_devices, HOST)
    return {HOST: graph_bytes(plan.header, plan.layers, plan.batch)}


def _runtime_part(plan: Plan, simulated: Simulation | None, assumptions: list[str]) -> MemoryPart:
    work = work_bytes(plan.header, plan.layers, plan.batch, plan.value)
    if simulated is not None:
        process = simulated.runtime_bytes
        source = "measured in the dry run"
    else:
        merges = plan.header.metadata.get("tokenizer.ggml.merges")
        n_merges = len(merges) if isinstance(merges, (tuple, LazyArray)) else 0
        cells = plan.cells.n_streams * plan.cells.n_cells
        process = _PROCESS + _LOADED + _VOCABULARY * n_vocab(plan.header) + _MERGES * n_merges + _CELL * cells
        process += _CUDA_PROCESS if plan.has_cuda else 0
        source = "as measured with CPython 3.11 on Linux"
    generation = _GENERATION
    if plan.has_cuda:
        generation += _CUDA_KERNELS + (0 if plan.batch.flash_attn else _CUBLAS)
    assumptions.append(
        f"runtime: Python, the engine and the vocabulary {format_bytes(process)} ({source}), conversion of activations "
        f"{format_bytes(work)}, sampler and threads {format_bytes(generation)}; a notebook's own memory is not included"
    )
    size = process + work + generation
    formula = f"process {format_bytes(process)} + work {format_bytes(work)} + generation {format_bytes(generation)}"
    return MemoryPart("runtime", "CPU", "memory", size, size, formula)


def n_vocab(header: Header) -> int:
    """Return the size of a model's vocabulary."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, (tuple, LazyArray)):
        return len(tokens)
    table = header.tensor("token_embd.weight")
    return table.shape[-1] if table is not None else 0


def _summed(plan: Plan, parts: list[MemoryPart], assumptions: list[str], method: str) -> MemoryEstimate:
    def of(*names: str) -> int:
        return sum(part.reserved_bytes for part in parts if part.name in names)

    ram = sum(part.resident_bytes for part in parts if part.device == "CPU")
    everything = sum(part.resident_bytes for part in parts)
    twice = sum(
        buffer.twice_bytes
        for buffer in place_weights(plan.header, plan.layer_devices, mapped=plan.use_mmap, features=plan.features)
    )
    available = available_ram_bytes() + resident_bytes()
    return MemoryEstimate(
        file_size_bytes=plan.header.file_size_bytes,
        weights_bytes=of("weights", "repacked weights") - twice,
        repack_bytes=twice,
        kv_cache_bytes=of("cache"),
        recurrent_state_bytes=of("state"),
        compute_buffer_bytes=of("compute"),
        output_buffer_bytes=of("output"),
        runtime_bytes=of("runtime"),
        total_bytes=everything,
        gpu_bytes=everything - ram,
        ram_bytes=ram,
        method=method,
        assumptions=tuple(assumptions),
        fits=ram <= available,
        available_bytes=available,
        n_ctx=plan.cells.n_ctx,
        layout=plan.layers.layout,
        parts=tuple(parts),
    )
