"""Traps in the file itself: a quantization that is not what its name says, or larger than a better one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from labkit.gguf_file import Header
from labkit.gguf_file.file_type import quantization_name
from labkit.gguf_file.formats import TensorType, file_type, tensor_type
from labkit.gguf_file.tensor_table import TensorInfo
from labkit.lint.case import Case
from labkit.lint.records import LintFinding
from labkit.units import format_bytes

__all__ = ["find_fallbacks", "find_larger_than_better", "uniform_bytes"]

_SUPER_BLOCK = 256
_PLAIN_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # blocks of 32, which fit nearly every row
# What stands in -> what was meant (src/llama-quant.cpp, tensor_type_fallback); for the others the file's own type was.
_MEANT = {"Q5_0": "Q4_K", "Q5_1": "Q5_K", "Q8_0": "Q6_K"}
_SHARE = 0.05  # of the file: what is less is worth a note only


def find_fallbacks(case: Case) -> Iterator[LintFinding]:
    """Find a K-quant by name whose rows are no multiple of 256, so that larger types stand in."""
    header = case.header
    named, _ = quantization_name(header)
    main = tensor_type(file_type(named).tensor_type)
    if main.block_size != _SUPER_BLOCK:
        return
    matrices = [tensor for tensor in header.tensors if _is_quantizable(tensor)]
    odd = [tensor for tensor in matrices if tensor.shape[0] % _SUPER_BLOCK and tensor.type.block_size != _SUPER_BLOCK]
    excess = sum(tensor.n_bytes - _bytes_as(tensor, _meant(tensor, main)) for tensor in odd)
    if not odd or excess <= 0:
        return
    bits = main.bits_per_weight
    plain = next((name for name in _PLAIN_TYPES if tensor_type(name).bits_per_weight >= bits), "Q8_0")
    size, now = uniform_bytes(header, plain), header.weights_bytes
    kinds = ", ".join(f"{count} {name}" for name, count in Counter(tensor.type.name for tensor in odd).most_common())
    smaller = (
        f"another file: as {plain} it has {format_bytes(size)} of weights instead of {format_bytes(now)}; compare what both "
    )
    smaller += "lose (labkit.compare_quantizations)"
    yield LintFinding(
        "fallback-types",
        "warning" if min(excess, now - size) >= _SHARE * now else "note",
        f"{named} in name, but rows of {odd[0].shape[0]:,} are no multiple of 256: {len(odd)} of {len(matrices)} matrices "
        f"are in other types ({kinds})",
        f"{format_bytes(excess)} more than the types it is named for, in the file, in memory and read for every token",
        smaller
        if size < now
        else f"none, {plain} is no smaller: judge the file by its size and its tensors, not by its name",
        excess,
    )


def find_larger_than_better(case: Case) -> Iterator[LintFinding]:
    """Find a file larger than one with more bits for every weight of its layers: embedding or output take the rest."""
    header = case.header
    layers = [tensor for tensor in header.tensors if tensor.name.startswith("blk.") and _is_quantizable(tensor)]
    n_weights, now = sum(tensor.n_elements for tensor in layers), header.weights_bytes
    bits = 8 * sum(tensor.n_bytes for tensor in layers) / n_weights if n_weights else 0.0
    better = [
        name
        for name in _PLAIN_TYPES
        if tensor_type(name).bits_per_weight > bits and uniform_bytes(header, name) < now and _fits_rows(header, name)
    ]
    if not better:
        return
    best = better[-1]
    size, best_bits = uniform_bytes(header, best), tensor_type(best).bits_per_weight
    yield LintFinding(
        "larger-than-better",
        "warning" if now - size >= _SHARE * now else "note",
        f"the layers have {bits:.2f} bits a weight in {format_bytes(now)}; {best} has {best_bits:g} and is "
        "smaller: embedding or output are stored wider than they need",
        f"{format_bytes(now - size)} more than as {best}",
        f"another file: labkit.quantize_model(source, target, {best!r}) from an F16 or better source",
        now - size,
    )


def uniform_bytes(header: Header, name: str) -> int:
    """Return the bytes of a model's weights with every matrix in one type of 32-blocks, as llama.cpp's quantizer writes it.

    The output (or the embedding that is the output too) becomes Q6_K, or Q8_0 where its rows are no multiple of 256.
    """
    tied = header.tensor("output.weight") is None
    output = "token_embd.weight" if tied else "output.weight"
    total = 0
    for tensor in header.tensors:
        if not _is_quantizable(tensor):
            total += tensor.n_bytes
            continue
        kind = tensor_type(name)
        if tensor.name == output and name != "Q8_0":
            kind = tensor_type("Q6_K" if tensor.shape[0] % _SUPER_BLOCK == 0 else "Q8_0")
        total += _bytes_as(tensor, kind)
    return total


def _is_quantizable(tensor: TensorInfo) -> bool:
    """Say whether the quantizer would touch a tensor; F32 matrices of a quantized file are those that it left alone."""
    return len(tensor.shape) > 1 and tensor.name.endswith(".weight") and tensor.type.name != "F32"


def _fits_rows(header: Header, name: str) -> bool:
    block = tensor_type(name).block_size
    return all(tensor.shape[0] % block == 0 for tensor in header.tensors if _is_quantizable(tensor))


def _meant(tensor: TensorInfo, main: TensorType) -> TensorType:
    return tensor_type(_MEANT[tensor.type.name]) if tensor.type.name in _MEANT else main


def _bytes_as(tensor: TensorInfo, kind: TensorType) -> int:
    return int(tensor.n_elements * kind.bits_per_weight / 8)
