"""The CPU's work buffer: room to convert activations to the type that the weights are multiplied with.

References
----------
llama.cpp ``ggml/src/ggml-cpu/ggml-cpu.c`` (``ggml_graph_plan``: ``GGML_OP_MUL_MAT``, ``GGML_OP_MUL_MAT_ID``;
``type_traits_cpu``: ``vec_dot_type``).
"""

from __future__ import annotations

from labkit.gguf_file import Header
from labkit.gguf_file.formats import TensorType, tensor_type
from labkit.kv_cache.layers import ModelLayers, largest
from labkit.memory.compute_buffer import Batch

__all__ = ["work_bytes"]

# A weight's type -> the type that activations are converted to; F32 stays F32.
_PARTNERS = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4", "Q1_0", "Q2_0"), "Q8_0"),
    **dict.fromkeys(("Q4_1", "Q5_1"), "Q8_1"),
    "F16": "F16",
    "BF16": "BF16",
}
_INPUT_ONLY = ("token_embd.", "position_embd.", "token_types.")


def work_bytes(header: Header, layers: ModelLayers, batch: Batch, value: TensorType) -> int:
    """Return the bytes of the largest conversion in a batch.

    Notes
    -----
    ``n_tokens * columns`` numbers for a weight matrix (times the used experts, for theirs); for attention without flash
    attention, ``n_tokens * heads * cells`` weights of the values.
    """
    tokens = batch.n_tokens
    most = 0
    used = largest(header, "expert_used_count")
    for tensor in header.tensors:
        if len(tensor.shape) < 2 or not tensor.name.endswith(".weight") or tensor.name.startswith(_INPUT_ONLY):
            continue
        rows = tokens * (used if "ffn_down_exps" in tensor.name else 1)
        rows = batch.n_outputs if tensor.name.startswith("output.") else rows
        most = max(most, _converted(tensor.type, rows * tensor.shape[0]))
    for layer in layers.layers:
        if layer.key_width and not batch.flash_attn:
            cells = batch.n_window_cells if layer.is_windowed else batch.n_cells
            most = max(most, _converted(value, tokens * layer.n_heads * cells))
    return most


def _converted(kind: TensorType, n_elements: int) -> int:
    if kind.name == "F32":
        return 0
    partner = tensor_type(_PARTNERS.get(kind.name, "Q8_K"))
    return n_elements * partner.block_bytes // partner.block_size
