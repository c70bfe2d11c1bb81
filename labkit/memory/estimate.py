"""estimate_memory_usage: the memory a model needs, before it is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.checks import check_choice
from labkit.errors import ArgumentError, GGUFError, ModelLoadError
from labkit.gguf_file import LazyArray
from labkit.kv_cache import PROMPT_STEP
from labkit.kv_cache.size import cache_bytes, state_bytes
from labkit.memory.compute_buffer import graph_bytes, work_bytes
from labkit.memory.graph_blocks import Batch
from labkit.memory.plan import Plan, make_plan
from labkit.memory.records import MemoryEstimate, MemoryPart
from labkit.memory.weights import HOST, WeightBuffer
from labkit.model_info import read_model_header
from labkit.system import available_ram_bytes, resident_bytes
from labkit.units import counted, format_bytes

if TYPE_CHECKING:
    from labkit.memory.dry_run import Simulation

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
_GENERATION = 6 * MIB  # sampler, thread control, threads, and freed memory that the C library keeps
METHODS = ("auto", "formula", "simulate")


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
    n_outputs_max: int | None = None,
    devices: Sequence[Any] | None = None,
    tensor_split: Sequence[float] | None = None,
    override_tensor: str | None = None,
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
        Sequences decoded together, each with separate cells.
    use_mmap, flash_attn : bool, None or "auto"
        None and ``"auto"``: as `load_model` chooses on this machine.
    swa_full : bool
        Whether layers with a sliding window cache the whole context.
    method : str
        ``"formula"`` uses only the header. ``"simulate"`` runs llama.cpp in a dry run that allocates nothing.
        ``"auto"`` takes the compute buffer and the runtime from the dry run, the rest from the formula where it knows the
        architecture; where llama.cpp cannot be loaded, all from the formula.
    n_outputs_max : int, optional
        Rows of logits per computation; None is one per sequence, as in `load_model`; 0 is ``n_batch``, as in
        llama-cpp-python.
    devices : sequence, optional
        As for `load_model`; determines how many devices share the layers, one by default.
    tensor_split : sequence of float, optional
        The devices' shares; equal by default.
    override_tensor : str, optional
        As for `load_model`: ``"exps=CPU"`` keeps a mixture's experts on the CPU.

    Raises
    ------
    ModelNotFoundError, GGUFError, ArgumentError, ArgumentTypeError
        As in `load_model`.
    ModelLoadError, EngineError
        With ``method="simulate"``: llama.cpp cannot lay out the model, or cannot be loaded.

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
    check_choice("method", method, METHODS)
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
        n_outputs_max=n_outputs_max,
        devices=devices,
        tensor_split=tensor_split,
        override_tensor=override_tensor,
    )
    return estimate_plan(plan, method)


def estimate_plan(plan: Plan, method: str, ram_bytes: int | None = None) -> MemoryEstimate:
    """Estimate the memory of a plan; ``ram_bytes`` is by default what this process may use now."""
    assumptions = [f"{plan.header.architecture}: {plan.layers.layout}"]
    simulated = _simulated(plan, method, assumptions)
    if not plan.layers.is_checked:
        name = plan.header.architecture
        doubt = f"the rules for {name} are untested" if plan.layers.is_known else f"the formula does not know {name}"
        remedy = "the cache is llama.cpp's own figure" if simulated else "plain attention assumed"
        assumptions.append(doubt if plan.layers.is_known and not simulated else f"{doubt}: {remedy}")
    if not plan.build.version:
        assumptions.append(
            f"llama.cpp cannot be loaded here (see labkit doctor): a build with {', '.join(plan.features)} assumed"
        )
    elif plan.device_names == ("device",) and not plan.build.has_gpu:
        assumptions.append("this llama.cpp has no GPU: load_model keeps all layers on the CPU unless devices=[…] names one")
    parts = _parts(plan, simulated, method, assumptions)
    room = available_ram_bytes() + resident_bytes() if ram_bytes is None else ram_bytes
    return _summed(plan, parts, assumptions, method if simulated is not None else "formula", room)


def _simulated(plan: Plan, method: str, assumptions: list[str]) -> Simulation | None:
    from labkit.memory.dry_run import simulate

    if method == "formula":
        return None
    if not plan.header.paths:
        if method == "simulate":
            raise ArgumentError(f"{plan.header.source} is on a server, and a dry run needs the file: use method='formula'")
        assumptions.append("the file is on a server, so all figures are by formula")
        return None
    if method == "auto" and not plan.build.version:
        return None
    try:
        return simulate(
            plan.header.paths[0],
            n_ctx=plan.cells.n_ctx,
            n_batch=plan.settings.n_batch,
            n_ubatch=plan.settings.n_ubatch,
            n_gpu_layers=plan.gpu_layers or 0,
            n_seq_max=plan.n_seq,
            n_outputs_max=plan.n_outputs_max,
            type_k=plan.key.id,
            type_v=plan.value.id,
            flash_attn_type=int(plan.batch.flash_attn),
            swa_full=plan.settings.swa_full,
        )
    except ModelLoadError as error:
        if method == "simulate":
            raise
        assumptions.append(f"all figures are by formula, because the dry run failed: {error}")
        return None


def _parts(plan: Plan, simulated: Simulation | None, method: str, assumptions: list[str]) -> list[MemoryPart]:
    caches = cache_bytes(
        plan.layers, plan.layer_devices, plan.cells, key=plan.key, value=plan.value, flash_attn=plan.batch.flash_attn
    )
    states = state_bytes(plan.layers, plan.layer_devices, plan.n_seq)
    if simulated is not None and (method == "simulate" or not plan.layers.is_checked):
        caches = _rescaled(caches, simulated.kv_cache_bytes)
        states = _rescaled(states, simulated.recurrent_state_bytes)
    parts = [_weights_part(plan, buffer) for buffer in plan.weight_buffers]
    parts += [_part(plan, "cache", device, size, _cache_formula(plan)) for device, size in sorted(caches.items()) if size]
    parts += [_part(plan, "state", device, size, _state_formula(plan)) for device, size in sorted(states.items()) if size]
    parts += _compute_parts(plan, simulated, assumptions)
    rows = min(plan.n_seq, plan.cells.n_ctx)
    logits = 4 * rows * plan.n_vocab
    parts.append(_part(plan, "output", HOST, logits, f"{counted(rows, 'row')} of {plan.n_vocab:,} logits, 4 bytes each"))
    parts.append(_runtime_part(plan, simulated, assumptions))
    if plan.has_cuda:
        size = _CUDA_KERNELS_GPU + (0 if plan.batch.flash_attn else _CUBLAS_GPU)
        parts.append(_part(plan, "runtime", 0, size, "CUDA's kernels and work space, as measured on an H100"))
    if plan.settings.use_mmap:
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
    formula = f"{counted(len(caching) - windowed, 'layer')} x {streams}{plan.cells.n_cells:,} cells x {row}"
    return formula + (f"; {counted(windowed, 'layer')} with {plan.cells.n_window_cells:,} cells" if windowed else "")


def _state_formula(plan: Plan) -> str:
    layers = [layer.state_width for layer in plan.layers.layers if layer.state_width]
    return (
        f"{counted(len(layers), 'layer')} x {counted(plan.n_seq, 'sequence')} x {layers[0]:,} numbers of 4 bytes"
        if layers
        else "llama.cpp's own figure"
    )


def _compute_parts(plan: Plan, simulated: Simulation | None, assumptions: list[str]) -> list[MemoryPart]:
    """Return the compute buffers: one on the host, one on each device that computes layers."""
    step = _step(plan)
    only = f" (reserved for {plan.batch.n_tokens})" if step != plan.batch else ""
    formula = f"{step.n_tokens} tokens through the graph at once{only}, laid out as ggml does"
    try:
        sizes = _compute_bytes(plan, simulated, assumptions)
    except LookupError as error:
        raise GGUFError(f"{plan.header.source}: its tensors are not a complete {plan.header.architecture} model") from error
    parts = [_part(plan, "compute", device, size, formula) for device, size in sorted(sizes.items())]
    if step == plan.batch or sizes.keys() != {HOST}:
        return parts
    reserved, touched = (
        graph_bytes(plan.header, plan.layers, batch, plan.layer_devices, HOST)[HOST] for batch in (plan.batch, step)
    )
    return [dataclasses.replace(parts[0], resident_bytes=sizes[HOST] * touched // reserved)]


def _step(plan: Plan) -> Batch:
    """Return the largest computation: on a CPU, smaller pieces of a prompt than the buffers are reserved for."""
    batch = plan.batch
    if set(plan.layer_devices) != {HOST} or plan.n_outputs_max == 0 or plan.n_seq > 1 or batch.n_tokens <= PROMPT_STEP:
        return batch
    return dataclasses.replace(batch, n_tokens=PROMPT_STEP, n_outputs=min(batch.n_outputs, PROMPT_STEP))


def _compute_bytes(plan: Plan, simulated: Simulation | None, assumptions: list[str]) -> dict[int, int]:
    if simulated is not None and (plan.gpu_layers is not None or set(plan.layer_devices) == {HOST}):
        on_device = simulated.device_compute_bytes
        return {HOST: simulated.compute_buffer_bytes - on_device} | ({0: on_device} if on_device else {})
    if set(plan.layer_devices) != {HOST}:
        assumptions.append("compute buffers with layers on devices are by formula: the dry run uses only the CPU")
        if plan.on_cpu:
            assumptions.append("compute buffers as if each layer were computed whole on its device")
    return graph_bytes(plan.header, plan.layers, plan.batch, plan.layer_devices, HOST)


def _runtime_part(plan: Plan, simulated: Simulation | None, assumptions: list[str]) -> MemoryPart:
    work = work_bytes(plan.header, plan.layers, _step(plan), plan.value)
    if simulated is not None:
        process = simulated.runtime_bytes
        source = "measured in the dry run"
    else:
        merges = plan.header.metadata.get("tokenizer.ggml.merges")
        n_merges = len(merges) if isinstance(merges, (tuple, LazyArray)) else 0
        cells = plan.cells.n_streams * plan.cells.n_cells
        process = _PROCESS + _LOADED + _VOCABULARY * plan.n_vocab + _MERGES * n_merges + _CELL * cells
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


def _summed(plan: Plan, parts: list[MemoryPart], assumptions: list[str], method: str, available: int) -> MemoryEstimate:
    def of(*names: str) -> int:
        return sum(part.reserved_bytes for part in parts if part.name in names)

    ram = sum(part.resident_bytes for part in parts if part.device == "CPU")
    everything = sum(part.resident_bytes for part in parts)
    twice = sum(buffer.twice_bytes for buffer in plan.weight_buffers)
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
