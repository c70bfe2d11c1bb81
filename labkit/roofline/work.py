"""The work per token: matrix products, attention, and small operations.

References
----------
llama.cpp ``src/models/llama.cpp`` and ``src/llama-graph.cpp`` (``build_attn``, ``build_moe_ffn``): a layer's operations.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from labkit.gguf_file import Header
from labkit.gguf_file.formats import TensorType
from labkit.gguf_file.tensor_table import TensorInfo
from labkit.kv_cache import CELLS
from labkit.kv_cache.layers import LayerMemory, ModelLayers, largest
from labkit.units import round_up

# Approximately: two norms with weights, two rotations, two cache writes, a copy, an activation with its gate, two sums.
SMALL_PER_LAYER = 12
_LOOKED_UP = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")
_NO_PRODUCTS = ("ssm_conv1d", "shortconv.conv", "rope_", "ssm_a.", "ssm_d.")


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Weight matrices of one type and shape in a pass through the model."""

    type: TensorType
    n_in: int
    n_out: int
    count: float  # that a pass reads; of experts, the expected number that its tokens choose
    n_columns: float  # tokens multiplied at once; of experts, on average

    @property
    def n_bytes(self) -> int:
        """Bytes of one matrix."""
        return self.n_out * self.type.row_bytes(self.n_in)

    @property
    def operations(self) -> float:
        """Multiplications and additions of all matrices, for all tokens."""
        return 2.0 * self.n_in * self.n_out * self.count * self.n_columns


@dataclasses.dataclass(frozen=True)
class Attention:
    """Layers with equal attention."""

    n_heads: int
    n_heads_kv: int
    key_length: int
    value_length: int
    n_cells: int  # attended to
    n_tokens: int  # per sequence in one pass
    count: int  # such layers, times sequences

    @property
    def operations(self) -> float:
        """Multiplications and additions of all layers."""
        return 2.0 * self.n_heads * self.n_tokens * self.n_cells * (self.key_length + self.value_length) * self.count

    @property
    def n_bytes(self) -> int:
        """Bytes of the cells of one layer and sequence, in F16."""
        return 2 * self.n_cells * self.n_heads_kv * (self.key_length + self.value_length)


def matrices(header: Header, n_tokens: int, n_outputs: int) -> tuple[Matrix, ...]:
    """Return the matrices of one pass over ``n_tokens`` tokens of which ``n_outputs`` get logits.

    With E experts, u used per token, n tokens choose ``E * (1 - (1 - u / E) ** n)`` different experts if they are spread
    evenly.
    """
    found: Counter[tuple[TensorType, int, int, float]] = Counter()
    used = largest(header, "expert_used_count")
    tied = header.tensor("output.weight") is None
    for tensor in header.tensors:
        is_output = tensor.name == ("token_embd.weight" if tied else "output.weight")
        if not is_output and not _is_multiplied(tensor):
            continue
        count, columns = 1.0, float(n_outputs if is_output else n_tokens)
        if len(tensor.shape) > 2:
            count = tensor.shape[2]
            if "_exps." in tensor.name and used:
                touched = count * (1 - (1 - min(used / count, 1.0)) ** n_tokens)
                count, columns = touched, n_tokens * min(used, count) / touched
        found[tensor.type, tensor.shape[0], tensor.shape[1], columns] += count  # type: ignore[assignment]  # fractions
    return tuple(Matrix(kind, n_in, n_out, count, columns) for (kind, n_in, n_out, columns), count in found.items())


def _is_multiplied(tensor: TensorInfo) -> bool:
    if len(tensor.shape) < 2 or not tensor.name.endswith(".weight") or tensor.name.startswith(_LOOKED_UP):
        return False
    return not any(part in tensor.name for part in _NO_PRODUCTS)


def attentions(layers: ModelLayers, depth: int, n_tokens: int, n_seq: int) -> tuple[Attention, ...]:
    """Return the attention of one pass: ``n_tokens`` tokens per sequence, after ``depth`` others."""
    found: Counter[tuple[int, int, int, int, int]] = Counter()
    for layer in layers.layers:
        if layer.key_width and layer.key_length:
            cells = cells_read(layer, layers.window, depth + n_tokens)
            heads_kv = max(layer.key_width // layer.key_length, 1)
            found[layer.n_heads, heads_kv, layer.key_length, layer.value_length, cells] += n_seq
    return tuple(Attention(*shape, n_tokens, count) for shape, count in found.items())


def cells_read(layer: LayerMemory, window: int, n_tokens: int) -> int:
    """Return the number of cells that a layer attends to in a sequence of ``n_tokens`` tokens."""
    seen = min(n_tokens, window + 1) if layer.is_windowed and window else n_tokens
    return round_up(max(seen, 1), CELLS)
