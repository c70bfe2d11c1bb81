"""What ``labkit doctor`` checks in a model file and on a machine: functions from facts to findings, nothing is loaded."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Literal

from labkit.gguf_file import Header
from labkit.gguf_file.file_type import quantization_name
from labkit.gguf_file.formats import TensorType, file_type, tensor_type
from labkit.gguf_file.tensor_table import TensorInfo
from labkit.kv_cache import CELLS
from labkit.kv_cache.layers import model_layers, number
from labkit.kv_cache.size import cache_bytes, cache_shape
from labkit.memory.weights import HOST, place_weights
from labkit.records import Record
from labkit.system import rebuild_command
from labkit.system.huge_pages import LARGE_BYTES
from labkit.units import counted, format_bytes

State = Literal["ok", "note", "missing"]  # note: it works, but costs something; missing: the course needs it

_NOTABLE = 1.05  # times: a finding that costs less is reported, but is not worth acting on
_BUSY = 0.5  # cores that other programs use
_K_BLOCK = 256
_PLAIN_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # blocks of 32, which fit nearly every row
# The type that was used -> the type that was meant (src/llama-quant.cpp, tensor_type_fallback); else the file's main type.
_MEANT = {"Q5_0": "Q4_K", "Q5_1": "Q5_K", "Q8_0": "Q6_K"}


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Finding(Record):
    """One thing that was checked, and what was found."""

    what: str
    state: State
    found: str
    cost: str = ""  # in words
    fix: str = ""  # what to do about it
    cost_bytes: int | None = None  # of memory
    cost_ratio: float | None = None  # how many times more memory or time than without it


def check_model_file(header: Header, n_ctx: int, features: Collection[str] | None) -> Iterator[Finding]:
    """Check a model's header, and what its weights and ``n_ctx`` tokens of context (0: as trained) need in memory.

    ``features`` are those of the installed engine (`EngineBuild.features`), or None where there is no engine.
    """
    yield from _check_fallback_types(header)
    yield from _check_larger_than_better(header)
    yield from _check_context(header, n_ctx)
    if features is not None:
        yield from _check_weights_held_twice(header, features)


def _check_fallback_types(header: Header) -> Iterator[Finding]:
    """Find a K-quant with rows that are not a multiple of 256: the quantizer uses larger types for those."""
    named, _ = quantization_name(header)
    main = tensor_type(file_type(named).tensor_type)
    matrices = [tensor for tensor in header.tensors if _is_quantizable(tensor)]
    odd = [tensor for tensor in matrices if tensor.shape[0] % _K_BLOCK and tensor.type.block_size != _K_BLOCK]
    meant = sum(_bytes_as(tensor, tensor_type(_MEANT.get(tensor.type.name, main.name))) for tensor in odd)
    excess, now = sum(tensor.n_bytes for tensor in odd) - meant, header.weights_bytes
    if main.block_size != _K_BLOCK or excess <= 0:
        return
    plain = next((name for name in _PLAIN_TYPES if tensor_type(name).bits_per_weight >= main.bits_per_weight), "Q8_0")
    size, used = bytes_in_type(header, plain), Counter(tensor.type.name for tensor in odd).most_common()
    fix = f"{plain} is not smaller here, so judge the file by its size, not by its name"
    if size < now:
        fix = f"quantize the original to {plain}: {format_bytes(size)} instead of {format_bytes(now)} of weights; "
        fix += "compare the quality of both with labkit.compare_quantizations"
    yield _cost_in_bytes(
        "fallback types",
        f"named {named}, but with other types in {len(odd)} of {len(matrices)} matrices "
        f"({', '.join(f'{count} {name}' for name, count in used)}): their rows, such as {odd[0].shape[0]:,} weights, are "
        "not a multiple of 256",
        f"{format_bytes(excess)} more to store, and to read for every token",
        fix,
        excess,
        now / (now - excess),
    )


def _check_larger_than_better(header: Header) -> Iterator[Finding]:
    """Find a file that is larger than one with more bits per weight in its layers."""
    layers = [tensor for tensor in header.tensors if tensor.name.startswith("blk.") and _is_quantizable(tensor)]
    n_weights, now = sum(tensor.n_elements for tensor in layers), header.weights_bytes
    bits = 8 * sum(tensor.n_bytes for tensor in layers) / n_weights if n_weights else math.inf
    rows = {tensor.shape[0] for tensor in header.tensors if _is_quantizable(tensor)}
    better = [name for name in _PLAIN_TYPES if tensor_type(name).bits_per_weight > bits]
    fitting = [name for name in better if not any(row % tensor_type(name).block_size for row in rows)]
    smaller = [(name, size) for name in fitting if (size := bytes_in_type(header, name)) < now]
    if not smaller:
        return
    best, size = smaller[-1]
    yield _cost_in_bytes(
        "larger than better",
        f"its layers have {bits:.2f} bits per weight; {best} has {tensor_type(best).bits_per_weight:g} and makes a smaller "
        "file: this one stores the embedding or the output in a larger type than needed",
        f"{format_bytes(now - size)} more than as {best}",
        f"labkit.quantize_model(source, target, {best!r}), from an F16 or BF16 source",
        now - size,
        now / size,
    )


def _check_context(header: Header, n_ctx: int) -> Iterator[Finding]:
    """Find a context longer than the texts that the model was trained on."""
    trained = number(header, "context_length")
    longest = -(-trained // CELLS) * CELLS
    if not trained or n_ctx <= longest:
        return
    size, enough = _f16_cache_bytes(header, n_ctx), _f16_cache_bytes(header, longest)
    yield Finding(
        "context length",
        "note",
        f"n_ctx={n_ctx:,}, but the model was trained on {trained:,} tokens",
        f"poor text after {trained:,} tokens, and {format_bytes(size - enough)} more of KV cache",
        f"n_ctx={longest}",
        size - enough,
        size / enough if enough else None,
    )


def _check_weights_held_twice(header: Header, features: Collection[str]) -> Iterator[Finding]:
    """Find weights that the CPU backend repacks: if the file is mapped as well, both copies use memory."""
    on_cpu = [HOST] * (len(model_layers(header).layers) + 1)
    mapped, read = (
        {buffer.kind: buffer.n_bytes for buffer in place_weights(header, on_cpu, mapped=use_mmap, features=tuple(features))}
        for use_mmap in (True, False)
    )
    extra = sum(mapped.values()) - sum(read.values())
    if extra <= 0 or "repacked" not in mapped:
        return
    yield _cost_in_bytes(
        "weights held twice",
        f"llama.cpp repacks {format_bytes(mapped['repacked'])} of the weights for this CPU, and with use_mmap=True, "
        "llama_cpp.Llama's default, the mapped file stays in memory too",
        f"{format_bytes(extra)} more, {format_bytes(sum(mapped.values()))} in all",
        "use_mmap=False (labkit.load_model chooses it for such files)",
        extra,
        sum(mapped.values()) / sum(read.values()),
    )


def check_quota(quota: float | None, n_cores: int) -> Iterator[Finding]:
    """Check whether a container's CPU quota (None: no limit) is less than the physical cores that are visible in it."""
    if quota is not None and quota < n_cores:
        yield Finding(
            "CPU quota",
            "note",
            f"the container may use {quota:g} of {n_cores:,} physical cores",
            f"prompts need at least {n_cores / quota:.2g} times as long as with all cores",
            f"give it more, such as docker run --cpus={n_cores}; until then labkit computes with "
            f"{counted(max(1, math.floor(quota)), 'thread')}, and so should llama_cpp.Llama(n_threads=…)",
            cost_ratio=n_cores / quota,
        )


def check_slow_cores(n_fast: int, n_cores: int) -> Iterator[Finding]:
    """Check whether some of this process's physical cores are slow ("efficiency") cores."""
    if n_fast < n_cores:
        yield Finding(
            "slow cores",
            "note",
            f"{n_cores - n_fast} of {n_cores} physical cores are slow ones",
            "every layer waits for the slowest thread, so all cores together can be slower than the fast ones alone",
            f"compare: labkit tune, or load_model(n_threads={n_fast})",
        )


def check_load(free: float | None, n_cpus: int, programs: Sequence[tuple[str, float]]) -> Iterator[Finding]:
    """Check whether other programs use cores: ``free`` of ``n_cpus`` logical CPUs; the programs as (name, CPUs)."""
    if free is None:
        return
    used = n_cpus - free
    if used < _BUSY:
        yield Finding("other programs", "ok", f"use {used:.1f} of {n_cpus:,} CPUs now")
        return
    names = ", ".join(f"{name} {cpus:.1f}" for name, cpus in programs)
    yield Finding(
        "other programs",
        "note",
        f"use {used:.1f} of {n_cpus:,} CPUs now{f': {names}' if names else ''}",
        "slower generation: every layer waits for the slowest thread; measured speeds are not comparable",
        "close them before you measure; load_model(n_threads=None) uses fewer threads while they run",
    )


def check_huge_pages(setting: str | None) -> Iterator[Finding]:
    """Check whether Linux gives out pages of 2 MiB (see `labkit.system.huge_pages`)."""
    if setting == "never":
        yield Finding(
            "huge pages",
            "note",
            "the system never uses pages of 2 MiB",
            "slower generation with large models, above all in virtual machines: 17 instead of 22 tokens/s with a 1B model",
            "as administrator: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    elif setting:
        yield Finding("huge pages", "ok", f"for weights and caches of {format_bytes(LARGE_BYTES)} and more")


def check_instructions(unused: Sequence[str]) -> Iterator[Finding]:
    """Check for CPU instructions that llama.cpp was built without (see `labkit.system.unused_instructions`)."""
    if unused:
        yield Finding(
            "CPU instructions",
            "note",
            f"this CPU has {', '.join(unused)}, but llama.cpp was built without",
            "slower than this CPU could be, above all on prompts",
            f"build it on this machine: {rebuild_command()}",
        )


def check_openmp(features: Collection[str]) -> Iterator[Finding]:
    """Check which threads ggml computes with: OpenMP's, which it shares with other libraries, or its own."""
    if "OPENMP" not in features:
        yield Finding("thread pool", "ok", "ggml's own (built without OpenMP)")
        return
    yield Finding(
        "thread pool",
        "note",
        "llama.cpp was built with OpenMP",
        "another library's or Llama's idle threads slow down generation, on 2 cores from 150 to 87 tokens/s",
        f"build without it: {rebuild_command()}",
    )


def check_amx(features: Collection[str], cpu_flags: Collection[str]) -> Iterator[Finding]:
    """Check for llama.cpp's AMX kernels on a CPU that runs them.

    References
    ----------
    llama.cpp issue 20824 (GCC 11; GCC 12 does the same): the compiler drops the writes to the tile configuration, which
    ``ldtilecfg`` then reads.
    """
    if "AMX_INT8" in features and "amx_int8" in cpu_flags:
        yield Finding(
            "AMX",
            "note",
            "llama.cpp was built with AMX kernels, and this CPU has AMX",
            "generation crashes if GCC 11 or 12 compiled them (llama.cpp issue 20824)",
            f"build without them: {rebuild_command()}",
        )


def bytes_in_type(header: Header, name: str) -> int:
    """Return the bytes of a model's weights with every matrix in one type of 32-blocks, as llama.cpp's quantizer writes it.

    The output (or the embedding that is also the output) becomes Q6_K, or Q8_0 if its rows are not a multiple of 256.
    """
    tied = header.tensor("output.weight") is None
    output = "token_embd.weight" if tied else "output.weight"
    total = 0
    for tensor in header.tensors:
        kind = tensor_type(name)
        if tensor.name == output and name != "Q8_0":
            kind = tensor_type("Q8_0" if tensor.shape[0] % _K_BLOCK else "Q6_K")
        total += _bytes_as(tensor, kind) if _is_quantizable(tensor) else tensor.n_bytes
    return total


def _is_quantizable(tensor: TensorInfo) -> bool:
    """Return whether the quantizer changes a tensor; in a quantized file, F32 matrices are those that it left alone."""
    return len(tensor.shape) > 1 and tensor.name.endswith(".weight") and tensor.type.name != "F32"


def _bytes_as(tensor: TensorInfo, kind: TensorType) -> int:
    return int(tensor.n_elements * kind.bits_per_weight / 8)


def _f16_cache_bytes(header: Header, n_ctx: int) -> int:
    layers, f16 = model_layers(header), tensor_type("F16")
    devices, shape = [HOST] * len(layers.layers), cache_shape(layers, n_ctx)
    return sum(cache_bytes(layers, devices, shape, key=f16, value=f16, flash_attn=bool(layers.window)).values())


def _cost_in_bytes(what: str, found: str, cost: str, fix: str, n_bytes: int, ratio: float) -> Finding:
    """Return a finding that costs memory, a note if that is a notable share."""
    state: State = "note" if ratio >= _NOTABLE else "ok"
    return Finding(what, state, found, f"{cost}, {ratio:.2f} times as much", fix, n_bytes, ratio)
