"""The usual name of a file's quantization, from ``general.file_type`` or from its tensors."""

from __future__ import annotations

from collections import Counter

from labkit.gguf_file.formats import FILE_TYPES
from labkit.gguf_file.header import Header
from labkit.gguf_file.tensor_table import TensorInfo

# Fallback types of llama.cpp's quantizer where a row is not a multiple of 256 (src/llama-quant.cpp, tensor_type_fallback)
FALLBACKS = {
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_ALSO = {"IQ3_XS": {"IQ3_XXS"}, "IQ3_XXS": {"IQ2_S", "IQ3_S"}, "IQ2_S": {"IQ2_S"}, "Q2_K_S": {"Q3_K"}, "MXFP4_MOE": {"Q8_0"}}
_FLOATS = ("F32", "F16", "BF16")


def quantization_name(header: Header) -> tuple[str, str | None]:
    """Return the quantization's name, and a warning where ``general.file_type`` is missing or wrong.

    Notes
    -----
    A file may mix types by design (Q4_K_M stores half of some matrices in Q6_K) or by necessity (a K type falls back to
    another type where rows are not a multiple of 256); ``general.file_type`` counts as wrong only if no tensor matches it.
    """
    matrices = [tensor for tensor in header.tensors if len(tensor.shape) > 1]
    stored = header.metadata.get("general.file_type")
    claim = FILE_TYPES.get(stored) if isinstance(stored, int) else None
    if claim is not None and _is_plausible(claim.name, claim.tensor_type, matrices):
        return claim.name, None
    name = _from_tensors(matrices)
    if stored is None:
        return name, f"key 'general.file_type' is missing; the tensors indicate {name}"
    if claim is None:
        return name, f"key 'general.file_type' has the unknown value {stored!r}; the tensors indicate {name}"
    return name, f"key 'general.file_type' says {claim.name}, but no tensor has that type; the tensors indicate {name}"


def _is_plausible(name: str, tensor_type: str, matrices: list[TensorInfo]) -> bool:
    if not matrices:
        return True
    possible = {tensor_type, FALLBACKS.get(tensor_type), *_ALSO.get(name, ())}
    return any(tensor.type.name in possible or tensor.shape[0] % 32 for tensor in matrices)  # odd rows become F16


def _from_tensors(matrices: list[TensorInfo]) -> str:
    """Name the quantization from the layers' matrices (the embedding often has a different type)."""
    layers = [tensor for tensor in matrices if tensor.name.startswith("blk.")] or matrices
    types = Counter(tensor.type.name for tensor in layers)
    if not types:
        return "F32"
    quantized = Counter({name: count for name, count in types.items() if name not in _FLOATS})
    if not quantized:
        return types.most_common(1)[0][0]
    return _mix(_main_type(quantized), set(quantized))


def _main_type(types: Counter[str]) -> str:
    """Return the most frequent type, or the type that it is the fallback of."""
    common = types.most_common(1)[0][0]
    meant = [name for name, _ in types.most_common() if FALLBACKS.get(name) == common]
    return meant[0] if meant else common


def _mix(main: str, types: set[str]) -> str:
    """Add the suffix for the other types in the mix."""
    if main in ("Q4_K", "Q5_K"):
        return f"{main}_M" if types & {"Q6_K", "Q8_0"} else f"{main}_S"
    if main == "Q3_K":
        return "Q3_K_M" if "Q4_K" in types else "Q3_K_L" if "Q5_K" in types else "Q3_K_S"
    if main == "Q2_K":
        return "Q2_K" if "Q3_K" in types else "Q2_K_S"
    if main == "IQ3_S":
        return "IQ3_XS" if "IQ3_XXS" in types else "IQ3_M" if "Q4_K" in types else "IQ3_S"
    return {"IQ2_S": "IQ2_M", "MXFP4": "MXFP4_MOE"}.get(main, main)
