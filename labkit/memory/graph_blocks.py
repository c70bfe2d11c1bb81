"""The parts of a model's graph: attention, state-space layers, feed-forward networks, each as the tensors that it makes.

References
----------
llama.cpp ``src/llama-graph.cpp`` (``build_qkv``, ``build_attn_mha``, ``build_ffn``, ``build_moe_ffn``),
``src/models/llama.cpp``, ``gemma3.cpp``, ``deepseek2.cpp``, ``mamba-base.cpp``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from labkit.gguf_file import Header
from labkit.kv_cache.layers import LayerMemory, ModelLayers, largest, number
from labkit.memory.allocator import Graph, Tensor


@dataclasses.dataclass(frozen=True)
class Batch:
    """The batch that llama.cpp reserves memory for."""

    n_tokens: int  # computed together
    n_outputs: int  # rows of logits
    n_seq: int
    n_cells: int  # that a token may attend to, in layers without a window
    n_window_cells: int  # and in layers with one
    flash_attn: bool
    rotates_keys: bool = False  # before llama.cpp quantizes them into the cache
    rotates_values: bool = False


@dataclasses.dataclass
class Mask:
    """Inputs of the attention in one kind of layer."""

    mask: Tensor
    keys: Tensor
    values: Tensor | None
    n_cells: int


class Blocks:
    """A graph that grows block by block; which variant a block has is read from the tensors in the file."""

    positions: Tensor
    chosen: Tensor

    def __init__(self, header: Header, layers: ModelLayers, batch: Batch, *, copies: int = 1) -> None:
        self.header, self.layers, self.batch, self.copies = header, layers, batch, copies
        self.graph = Graph()
        self.shapes: Mapping[str, tuple[int, ...]] = {tensor.name: tensor.shape for tensor in header.tensors}
        self.width = number(header, "embedding_length")
        self.n_tokens = batch.n_tokens
        self.n_layers = len(layers.layers) - number(header, "nextn_predict_layers") or len(layers.layers)
        self.tokens: Tensor | None = None
        self.activations: Tensor | None = None
        self.masks: dict[bool, Mask] = {}
        self.rotations: dict[str, Tensor] = {}

    def _input(self, n_elements: int, element_bytes: int = 4) -> Tensor:
        for _ in range(self.copies - 1):
            self.graph.input(n_elements, element_bytes)
        return self.graph.input(n_elements, element_bytes)

    def _has(self, index: int, name: str) -> bool:
        return f"blk.{index}.{name}" in self.shapes

    def _rows(self, index: int, name: str) -> int:
        """Return the number of outputs of a weight matrix, 0 where the layer has no such matrix."""
        shape = self.shapes.get(f"blk.{index}.{name}.weight", (0, 0))
        return shape[1] if len(shape) > 1 else 0

    def _norm(self, source: Tensor) -> Tensor:
        return self.graph.overwrite(self.graph.overwrite(source))

    def _both(self, index: int, layer: LayerMemory, given: Tensor, current: Tensor) -> Tensor:
        """Attention and a state-space layer in parallel, as in Falcon-H1; the attention's result is projected last."""
        found = self._mixed(index, layer, self._stored(index, layer, current))
        scanned = self._scanned(index, self._norm(given))
        found = self._projected_back(index, found)
        return self.graph.overwrite(found, self._gated(index, *scanned))

    def _attention(self, index: int, layer: LayerMemory, current: Tensor) -> Tensor:
        return self._projected_back(index, self._mixed(index, layer, self._stored(index, layer, current)))

    def _stored(self, index: int, layer: LayerMemory, current: Tensor) -> Tensor:
        """Compute keys and values, store them, and return the queries."""
        graph, n_tokens = self.graph, self.n_tokens
        fused = self._rows(index, "attn_qkv")
        if fused:
            every = graph.compute(fused * n_tokens, current)
            width = fused - layer.key_width - layer.value_width
            query, value, key = (graph.view(every) for _ in range(3))
        else:
            width = self._rows(index, "attn_q")
            query = self._projected(index, "q", width, current)
        query = self._turned(index, "q", width, query)
        if self.header.architecture.startswith("gemma"):
            query = graph.overwrite(query)
        query = self._rotated("key", width, query)
        if not fused:
            value = self._projected(index, "v", layer.value_width, current)
        value = self._rotated("value", layer.value_width, value)
        if not fused:
            key = self._projected(index, "k", layer.key_width, current)
        key = self._rotated("key", layer.key_width, self._turned(index, "k", layer.key_width, key))
        given = self.masks[layer.is_windowed]
        if layer.key_width:
            graph.store(graph.view(key), given.keys)
            graph.store(graph.view(value), *([given.values] if given.values else []))
        return query

    def _mixed(self, index: int, layer: LayerMemory, query: Tensor) -> Tensor:
        """Compute attention scores and mix the values."""
        given = self.masks[layer.is_windowed]
        return self._attend(self.graph.view(query), given, layer.n_heads, self._mixed_width(index))

    def _mixed_width(self, index: int) -> int:
        return self.shapes.get(f"blk.{index}.attn_output.weight", (self.width,))[0]

    def _projected_back(self, index: int, found: Tensor) -> Tensor:
        found = self._rotated("value", self._mixed_width(index), found)
        return self.graph.compute(self.width * self.n_tokens, found)

    def _projected(self, index: int, letter: str, width: int, current: Tensor) -> Tensor:
        made = self.graph.compute(width * self.n_tokens, current)
        if self._has(index, f"attn_{letter}.bias"):
            made = self.graph.overwrite(made)
        return self.graph.view(made)

    def _turned(self, index: int, letter: str, width: int, source: Tensor) -> Tensor:
        """Normalize where the model does, and apply the position; a view cannot be overwritten."""
        if self._has(index, f"attn_{letter}_norm.weight"):
            source = self.graph.overwrite(self.graph.compute(width * self.n_tokens, source))
            return self.graph.overwrite(source, self.positions)
        return self.graph.compute(width * self.n_tokens, source, self.positions)

    def _rotated(self, name: str, width: int, source: Tensor) -> Tensor:
        """Rotate tensors that go into a quantized cache or are compared with it."""
        if name not in self.rotations:
            return source
        made = self.graph.compute(width * self.n_tokens, self.graph.view(source), self.rotations[name])
        return self.graph.view(made)

    def _attend(self, query: Tensor, given: Mask, n_heads: int, width: int, latent: int = 0) -> Tensor:
        """Compute attention scores and mix the values; ``latent`` is the values' width before decompression."""
        graph, n_tokens = self.graph, self.n_tokens
        if self.batch.flash_attn:
            found = graph.compute((latent or width) * n_tokens, query, given.mask)
            if latent:
                found = graph.view(graph.compute(width * n_tokens, graph.view(found)))
                found = graph.compute(width * n_tokens, found)
            return graph.view(found)
        scores = graph.compute(given.n_cells * n_heads * n_tokens, query)
        scores = graph.overwrite(scores, given.mask)
        found = graph.compute((latent or width) * n_tokens, scores)
        if latent:
            found = graph.compute(width * n_tokens, found)
        return graph.compute(width * n_tokens, graph.view(found))

    def _latent_attention(self, index: int, current: Tensor) -> Tensor:
        graph, n_tokens, heads = self.graph, self.n_tokens, self.layers.layers[index].n_heads
        rank = number(self.header, "attention.kv_lora_rank")
        rope = self._rows(index, "attn_kv_a_mqa") - rank
        full = number(self.header, "attention.key_length_mla") * heads
        value = number(self.header, "attention.value_length_mla") * heads
        if self._rows(index, "attn_q_a"):
            query = self._norm(graph.compute(self._rows(index, "attn_q_a") * n_tokens, current))
            query = graph.compute(full * n_tokens, query)
        else:
            query = graph.compute(full * n_tokens, current)
        query = graph.view(query)
        plain, turned = graph.view(query), graph.view(query)
        absorbed = graph.compute(rank * heads * n_tokens, graph.view(plain))
        turned = graph.compute(rope * heads * n_tokens, turned, self.positions)
        query = graph.compute((rank + rope) * heads * n_tokens, graph.view(absorbed), turned)
        both = graph.compute((rank + rope) * n_tokens, current)
        packed = graph.overwrite(graph.compute(rank * n_tokens, graph.view(both)))
        place = graph.compute(rope * n_tokens, graph.view(both), self.positions)
        key = graph.compute((rank + rope) * n_tokens, graph.view(packed), place)
        given = self.masks[False]
        graph.store(graph.view(key), given.keys)
        found = self._attend(graph.view(query), given, heads, value, latent=rank * heads)
        return graph.compute(self.width * n_tokens, found)

    def _scanned(self, index: int, current: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run a state-space layer up to its scan: return the scan, its input, and the gate."""
        graph, n_tokens, n_seq = self.graph, self.n_tokens, self.batch.n_seq
        inner, state = (number(self.header, f"ssm.{name}") for name in ("inner_size", "state_size"))
        kernel = number(self.header, "ssm.conv_kernel", 1)
        groups = number(self.header, "ssm.group_count")
        wide = inner + 2 * groups * state
        past = graph.compute((kernel - 1) * wide * n_seq)
        mixed = graph.compute(self._rows(index, "ssm_in") * n_tokens, graph.view(current))
        gate, seen = graph.view(mixed), graph.view(mixed)
        seen = graph.compute(((kernel - 1) * n_seq + n_tokens) * wide, graph.view(past), graph.view(seen))
        graph.store(graph.view(seen))
        seen = graph.overwrite(graph.overwrite(graph.compute(wide * n_tokens, seen)))
        if self._rows(index, "ssm_x"):  # mamba 1
            parts = graph.compute(self._rows(index, "ssm_x") * n_tokens, seen)
            rank = self.shapes[f"blk.{index}.ssm_dt.weight"][0]
            step = graph.compute(rank * n_tokens, graph.view(parts))
            step = graph.overwrite(graph.compute(inner * n_tokens, step))
            scanned = graph.compute(inner * n_tokens + state * inner * n_seq, graph.view(seen), step, graph.view(parts))
        else:
            heads = number(self.header, "ssm.time_step_rank", 1)
            step = graph.overwrite(graph.compute(heads * n_tokens, graph.view(mixed)))
            scanned = graph.compute(inner * n_tokens + state * inner * n_seq, graph.view(seen), step)
        graph.store(graph.view(scanned))
        return scanned, seen, gate

    def _gated(self, index: int, scanned: Tensor, seen: Tensor, gate: Tensor) -> Tensor:
        """Add the skip connection around the scan, apply the gate, and project."""
        graph, n_tokens = self.graph, self.n_tokens
        inner = number(self.header, "ssm.inner_size")
        direct = graph.compute(inner * n_tokens, graph.view(seen))
        gate = graph.compute(inner * n_tokens, gate)
        found = graph.compute(inner * n_tokens, gate, graph.compute(inner * n_tokens, graph.view(scanned), direct))
        return graph.view(graph.compute(self.width * n_tokens, found))

    # -- feed-forward --------------------------------------------------------------------------------------------

    def _dense(self, index: int, current: Tensor, n_rows: int, suffix: str = "") -> Tensor:
        graph, width = self.graph, self._rows(index, f"ffn_up{suffix}")
        if self._rows(index, f"ffn_gate{suffix}"):
            gate = graph.compute(width * n_rows, current)
            hidden = graph.compute(width * n_rows, gate, graph.compute(width * n_rows, current))
        elif self.header.architecture == "phi3":  # gate and up in one matrix
            hidden = graph.compute(width // 2 * n_rows, graph.compute(width * n_rows, current))
        else:
            hidden = graph.overwrite(graph.compute(width * n_rows, current))
        return graph.compute(self.width * n_rows, hidden)

    def _experts(self, index: int, current: Tensor, n_rows: int) -> Tensor:
        graph = self.graph
        n_experts, n_used = (largest(self.header, name) for name in ("expert_count", "expert_used_count"))
        scores = graph.overwrite(graph.compute(n_experts * n_rows, current))
        order = graph.view(graph.compute(n_experts * n_rows, scores))
        weights = graph.compute(n_used * n_rows, graph.view(scores), order)
        total = graph.overwrite(graph.compute(n_rows, graph.view(weights)))
        weights = graph.view(graph.compute(n_used * n_rows, graph.view(weights), total))
        width = self._rows(index, "ffn_up_exps") or self._rows(index, "ffn_gate_exps")
        given = graph.view(current)
        gate = graph.compute(width * n_used * n_rows, given, order)
        hidden = graph.compute(width * n_used * n_rows, gate, graph.compute(width * n_used * n_rows, given, order))
        each = graph.compute(self.width * n_used * n_rows, hidden, order)
        each = graph.overwrite(each, weights)
        views = [graph.view(each) for _ in range(n_used)]
        outcome = views[0]
        for later, view in enumerate(views[1:]):
            outcome = graph.overwrite(outcome, view) if later else graph.compute(self.width * n_rows, outcome, view)
        if self._rows(index, "ffn_up_shexp"):
            outcome = graph.overwrite(outcome, self._dense(index, current, n_rows, "_shexp"))
        return outcome
