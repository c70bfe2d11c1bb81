"""File type -> type of each tensor: the rules of llama.cpp's quantizer without an importance matrix.

A mix uses more bits where they help most: for attention values, the feed-forward down projection, the output, and the first
and last layers. Where rows are not a multiple of a type's block, the fallback is a type with blocks of 32.

References
----------
llama.cpp ``src/llama-quant.cpp``: ``tensor_allows_quantization``, ``llama_tensor_get_type_impl``, ``tensor_type_fallback``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from labkit.errors import ArgumentError
from labkit.gguf_file.file_type import FALLBACKS
from labkit.gguf_file.formats import FILE_TYPES, NOT_WRITABLE, FileType, TensorType, file_type, tensor_type
from labkit.ghost.layout import Tensor
from labkit.ghost.shape import Shape

_KEPT = re.compile(r"_norm\.weight$|ffn_gate_inp\.weight$|ssm_conv1d|shortconv\.conv\.weight$")  # too small, too sensitive
_WHOLE = {"output.weight": "output", "token_embd.weight": "embedding"}
_PARTS = {"attn_v.weight": "value", "attn_k.weight": "key", "attn_output.weight": "attention output", "ffn_down": "down"}


def ghost_file_type(name: str) -> FileType:
    """Return a file type by name, if a ghost can have it."""
    kind = file_type(name)
    if kind.name in NOT_WRITABLE:
        possible = ", ".join(row.name for row in FILE_TYPES.values() if row.name not in NOT_WRITABLE)
        why = "is not made by llama.cpp's quantizer" if kind.name == "NVFP4" else "needs an importance matrix"
        raise ArgumentError(f"{kind.name} {why}, so a ghost cannot have it: choose one of {possible}")
    return kind


def choose_types(
    file: FileType, architecture: str, shape: Shape, tensors: Iterable[Tensor]
) -> list[tuple[Tensor, TensorType]]:
    """Pair each tensor with its type, in the given order."""
    tensors = list(tensors)
    chooser = _Chooser(file, architecture, shape, tensors)
    chosen = {tensor.name: chooser.choose(tensor) for tensor in sorted(tensors, key=_engine_order)}
    return [(tensor, tensor_type(chosen[tensor.name])) for tensor in tensors]


def _engine_order(tensor: Tensor) -> tuple[int, str]:
    """Order tensors as in llama.cpp, whose rules count tensors: those outside layers first, then by layer and name."""
    return _layer(tensor.name), tensor.name


def _layer(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def _more_bits(index: int, n: int) -> bool:
    """Return whether a "medium" mix uses more bits in a layer: the first and last eighth and every third between."""
    return index < n // 8 or index >= 7 * n // 8 or (index - n // 8) % 3 == 2


class _Chooser:
    """The quantizer's rules, and their counters over the tensors."""

    def __init__(self, file: FileType, architecture: str, shape: Shape, tensors: list[Tensor]) -> None:
        self._file, self._shape = file.name, shape
        self._default = file.tensor_type
        names = {tensor.name for tensor in tensors}
        self._tied = "output.weight" not in names
        self._n_values = sum(name.endswith("attn_v.weight") for name in names)
        self._seen = {"value": 0, "down": 0}
        first_has_attention = not shape.attention_layers or 0 in shape.attention_layers
        self._sharing = shape.n_head // shape.n_head_kv if shape.n_head_kv and first_has_attention else 0
        self._eight_experts = shape.n_expert == 8
        grouped = architecture == "qwen2" or shape.n_head != shape.n_head_kv
        self._is_70b = architecture in ("llama", "qwen2") and shape.n_layer == 80 and grouped  # LLM_TYPE_70B

    def choose(self, tensor: Tensor) -> str:
        """Return the type of one tensor."""
        is_matrix = sum(n > 1 for n in tensor.shape[1:]) > 0
        if not is_matrix or not tensor.name.endswith("weight") or _KEPT.search(tensor.name):
            return "F32"
        if not tensor_type(self._default).is_quantized:
            return self._default
        return _fitting(self._mixed(tensor), tensor.shape[0])

    def _mixed(self, tensor: Tensor) -> str:
        found = (category for part, category in _PARTS.items() if part in tensor.name)
        category = _WHOLE.get(tensor.name) or next(found, "other")
        if category == "output" or (category == "embedding" and self._tied):
            return self._output(tensor)
        if self._file == "MXFP4_MOE":
            return "MXFP4" if len(tensor.shape) == 3 and tensor.shape[2] > 1 else "Q8_0"
        if category == "embedding" and self._file in ("TQ1_0", "TQ2_0", "Q2_0"):
            return "Q4_K"
        if category == "value":
            return self._value()
        if category == "key" and self._eight_experts:
            return "Q8_0"
        if category == "down":
            return self._down(tensor)
        return self._attention_output() if category == "attention output" else self._default

    def _output(self, tensor: Tensor) -> str:
        if self._file == "MXFP4_MOE" or tensor.shape[0] % tensor_type(self._default).block_size:
            return "Q8_0"
        return "Q8_0" if self._default == "Q8_0" else "Q6_K"

    def _value(self) -> str:
        index = self._seen["value"]
        self._seen["value"] += 1
        if self._eight_experts:
            return "Q8_0"
        chosen = self._value_of_mix(index, shared=self._sharing >= 4)
        return "Q5_K" if self._is_70b and chosen in ("Q3_K", "Q4_K") else chosen

    def _value_of_mix(self, index: int, *, shared: bool) -> str:
        name = self._file
        if name == "Q2_K":
            return "Q4_K" if shared else "Q3_K"
        if name == "Q3_K_M":
            return "Q5_K" if index < 2 else "Q4_K"
        if name == "Q3_K_L" or (name == "Q4_K_S" and index < 4) or (name in ("IQ4_NL", "IQ4_XS") and shared):
            return "Q5_K"
        if name == "IQ3_M" or (name == "IQ3_S" and shared):
            return "Q4_K"
        if name in ("Q4_K_M", "Q5_K_M") and _more_bits(index, self._n_values):
            return "Q6_K"
        return self._default

    def _down(self, tensor: Tensor) -> str:
        n = self._shape.n_layer
        index = _layer(tensor.name) if self._shape.n_expert > 1 else self._seen["down"]
        self._seen["down"] += 1
        name = self._file
        if name in ("Q4_K_M", "Q5_K_M") and _more_bits(index, n):
            return "Q6_K"
        if name == "Q3_K_M":
            return "Q5_K" if index < n // 16 else "Q4_K"
        if name == "IQ3_M" and (index < n // 8 or (self._eight_experts and _more_bits(index, n))):
            return "Q4_K"
        if index < n // 8 and name in ("IQ4_NL", "IQ4_XS", "Q4_K_S"):
            return "Q5_K"
        return {"Q2_K": "Q3_K", "Q3_K_L": "Q5_K"}.get(name, self._default)

    def _attention_output(self) -> str:
        if self._eight_experts:
            five = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS")
            return "Q5_K" if self._file in five else self._default
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}.get(self._file, self._default)


def _fitting(name: str, n_columns: int) -> str:
    """Return the type, or one with smaller blocks where rows are not a multiple of its block, or F16."""
    block = tensor_type(name).block_size
    if n_columns % block == 0:
        return name
    if name not in FALLBACKS and block > 32:
        problem = f"{name} has blocks of {block} and no fallback for rows of {n_columns:,} weights"
        raise ArgumentError(f"{problem}: choose another quantization or another shape")
    smaller = FALLBACKS.get(name, name)
    return smaller if n_columns % tensor_type(smaller).block_size == 0 else "F16"
