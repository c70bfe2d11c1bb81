"""Outline of a model's graph: the results of computing a batch of tokens, in order, to find the buffer's size.

Only sizes matter, so one outline covers most transformers; the differences (fused projections, norms of queries and keys,
experts, latent attention, a state-space layer) follow from the tensors in the file.

References
----------
llama.cpp ``src/llama-graph.cpp`` (``build_qkv``, ``build_attn_mha``, ``build_ffn``, ``build_moe_ffn``),
``src/models/llama.cpp``, ``gemma3.cpp``, ``deepseek2.cpp``, ``mamba-base.cpp``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from labkit.gguf_file import Header
from labkit.kv_cache.layers import LayerMemory, ModelLayers, largest, number
from labkit.memory.allocator import Graph, Tensor

__all__ = ["Batch", "graph_bytes", "graph_bytes_by_device"]

_HALF, _INDEX = 2, 8  # bytes of an f16, of a 64-bit index


@dataclasses.dataclass(frozen=True)
class Batch:
    """The batch that llama.cpp reserves memory for.

    Attributes
    ----------
    n_tokens : int
        Tokens computed together.
    n_outputs : int
        Rows of logits.
    n_seq : int
        Sequences in the batch.
    n_cells, n_window_cells : int
        Cells of the cache that a token may attend to, in layers without and with a window.
    flash_attn : bool
    rotates_keys, rotates_values : bool
        Whether llama.cpp rotates them before it quantizes them into the cache.
    """

    n_tokens: int
    n_outputs: int
    n_seq: int
    n_cells: int
    n_window_cells: int
    flash_attn: bool
    rotates_keys: bool = False
    rotates_values: bool = False


_COPIES = 4  # of each input, where devices process several batches at once (GGML_SCHED_MAX_COPIES)


def graph_bytes(header: Header, layers: ModelLayers, batch: Batch) -> int:
    """Return the compute buffer's size, in bytes, for a batch computed on the CPU only."""
    outline = _Outline(header, layers, batch)
    outline.give_tokens()
    return outline.build(range(outline.n_layers), with_output=True)


def graph_bytes_by_device(
    header: Header, layers: ModelLayers, batch: Batch, layer_devices: Sequence[int], host: int
) -> dict[int, int]:
    """Return the size of each device's compute buffer; the host has one even where it computes no layer.

    Notes
    -----
    The host holds the inputs and looks up the embeddings. Each device gets copies of the inputs that its layers read: four
    copies where several devices share all layers, because llama.cpp then processes several batches at once.
    """
    n_layers = _Outline(header, layers, batch).n_layers
    devices = sorted({host, *layer_devices})
    piped = len(devices) > 2 and host not in layer_devices
    sizes = {}
    for device in devices:
        outline = _Outline(header, layers, batch, copies=_COPIES if piped else 1)
        here = [index for index in range(n_layers) if layer_devices[index] == device]
        if device == host:
            outline.give_tokens()
        elif here:
            outline.give_activations()
        sizes[device] = outline.build(here, with_output=layer_devices[-1] == device, keeps_inputs=device == host)
    return sizes


@dataclasses.dataclass
class _Mask:
    """Inputs of the attention in one kind of layer."""

    mask: Tensor
    keys: Tensor
    values: Tensor | None
    n_cells: int


class _Outline:
    def __init__(self, header: Header, layers: ModelLayers, batch: Batch, *, copies: int = 1) -> None:
        self.header, self.layers, self.batch, self.copies = header, layers, batch, copies
        self.graph = Graph()
        self.shapes: Mapping[str, tuple[int, ...]] = {tensor.name: tensor.shape for tensor in header.tensors}
        self.width = number(header, "embedding_length")
        self.n_tokens = batch.n_tokens
        self.n_layers = len(layers.layers) - number(header, "nextn_predict_layers") or len(layers.layers)
        self.tokens: Tensor | None = None
        self.activations: Tensor | None = None

    def give_tokens(self) -> None:
        """Begin with tokens, and with room for embeddings given instead."""
        self.tokens = self._input(self.n_tokens)
        self._input(self.n_tokens * self.width)

    def give_activations(self) -> None:
        """Begin with activations from another device."""
        self.activations = self._input(self.n_tokens * self.width)

    def _input(self, n_elements: int, element_bytes: int = 4) -> Tensor:
        for _ in range(self.copies - 1):
            self.graph.input(n_elements, element_bytes)
        return self.graph.input(n_elements, element_bytes)

    def build(self, here: Sequence[int], *, with_output: bool, keeps_inputs: bool = False) -> int:
        """Return the buffer's size for the layers on this device."""
        graph, n_tokens = self.graph, self.n_tokens
        if here or keeps_inputs:
            self._give_inputs()
        if self.tokens is not None:
            current = graph.compute(n_tokens * self.width, self.tokens)
            if self.header.architecture.startswith("gemma") or self.header.hparam("embedding_scale"):
                current = graph.overwrite(current)
        else:
            current = self.activations or self._input(self.batch.n_outputs * self.width)
        for index in here:
            current = self._layer(index, current, is_last=index == self.n_layers - 1)
        if with_output:
            self._logits(current)
        return graph.buffer_bytes()

    def _give_inputs(self) -> None:
        """Add the other inputs of the layers: positions, masks, cache indices of keys and values."""
        n_tokens = self.n_tokens
        self.positions = self._input(n_tokens * (4 if self.header.hparam("rope.dimension_sections") else 1))
        self.masks = {windowed: self._mask(windowed) for windowed in self._kinds()}
        if any(layer.state_width for layer in self.layers.layers):
            self._input(self.batch.n_seq)
        self.chosen = self._input(self.batch.n_outputs)
        self._hadamard()

    def _logits(self, current: Tensor) -> None:
        graph = self.graph
        current = self._norm(current)
        table = self.shapes.get("output.weight", self.shapes.get("token_embd.weight", (0, 0)))
        logits = graph.compute(table[-1] * self.batch.n_outputs, current, output=True)
        if self.header.hparam("final_logit_softcapping"):
            for _ in range(3):
                logits = graph.overwrite(logits)

    def _kinds(self) -> list[bool]:
        caching = [layer for layer in self.layers.layers if layer.key_width]
        if self.layers.window:
            return [False, True]
        return [False] if caching else []

    def _mask(self, windowed: bool) -> _Mask:
        batch = self.batch
        n_cells = batch.n_window_cells if windowed else batch.n_cells
        latent = bool(self.header.hparam("attention.key_length_mla"))
        keys = self._input(batch.n_tokens, _INDEX)
        width = 1 if batch.flash_attn else self.layers.widest_value
        values = None if latent else self._input(batch.n_tokens * width, _INDEX)
        mask = self._input(n_cells * batch.n_tokens, _HALF if batch.flash_attn else 4)
        return _Mask(mask, keys, values, n_cells)

    def _hadamard(self) -> None:
        """Add the matrices that rotate keys and values before quantization: of the largest power of two that divides."""
        self.rotations: dict[str, Tensor] = {}
        for name, rotates in (("key", self.batch.rotates_keys), ("value", self.batch.rotates_values)):
            length = max((getattr(layer, f"{name}_length") for layer in self.layers.layers), default=0)
            if rotates and length:
                side = 64
                while length % (2 * side) == 0:
                    side *= 2
                self.rotations[name] = self.graph.input(side * side)

    def _has(self, index: int, name: str) -> bool:
        return f"blk.{index}.{name}" in self.shapes

    def _rows(self, index: int, name: str) -> int:
        """Return the number of outputs of a weight matrix, 0 where the layer has no such matrix."""
        shape = self.shapes.get(f"blk.{index}.{name}.weight", (0, 0))
        return shape[1] if len(shape) > 1 else 0

    def _norm(self, source: Tensor) -> Tensor:
        return self.graph.overwrite(self.graph.overwrite(source))

    # -- layers --------------------------------------------------------------------------------------------------

    def _layer(self, index: int, given: Tensor, *, is_last: bool) -> Tensor:
        graph, layer = self.graph, self.layers.layers[index]
        n_rows = self.batch.n_outputs if is_last else self.n_tokens
        current = self._norm(given)
        if layer.state_width and layer.key_width:
            current = self._both(index, layer, given, current)
        elif layer.state_width and self._rows(index, "ssm_in"):
            current = self._gated(index, *self._scanned(index, current))
        elif layer.key_width and not layer.value_width:
            current = self._latent_attention(index, current)
        elif self.layers.layers[index].n_heads:
            current = self._attention(index, layer, current)
        residual = given
        if is_last:
            current, residual = (graph.compute(n_rows * self.width, part, self.chosen) for part in (current, given))
        if self._has(index, "post_attention_norm.weight") and self._has(index, "ffn_norm.weight"):
            current = self._norm(current)
        current = graph.overwrite(current, residual)
        if not (self._rows(index, "ffn_up") or self._has(index, "ffn_gate_inp.weight")):
            return current
        outcome = self._feed_forward(index, self._norm(current), n_rows)
        if self._has(index, "post_ffw_norm.weight"):
            outcome = self._norm(outcome)
        return graph.overwrite(outcome, current)

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
        return self._attend(
            self.graph.view(query),
            self.masks[layer.is_windowed],
            self.layers.layers[index].n_heads,
            self._mixed_width(index),
        )

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

    def _attend(self, query: Tensor, given: _Mask, n_heads: int, width: int, latent: int = 0) -> Tensor:
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

    def _feed_forward(self, index: int, current: Tensor, n_rows: int) -> Tensor:
        if self._has(index, "ffn_gate_inp.weight"):
            return self._experts(index, current, n_rows)
        return self._dense(index, "", current, n_rows)

    def _dense(self, index: int, suffix: str, current: Tensor, n_rows: int) -> Tensor:
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
            outcome = graph.overwrite(outcome, self._dense(index, "_shexp", current, n_rows))
        return outcome
