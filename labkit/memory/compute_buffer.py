"""Outline of a model's graph: the results of computing a batch of tokens, in order, to find the buffer's size.

Only sizes matter, so one outline covers most transformers; the differences (fused projections, norms of queries and keys,
experts, latent attention, a state-space layer) follow from the tensors in the file.

References
----------
llama.cpp ``src/llama-graph.cpp`` (``build_qkv``, ``build_attn_mha``, ``build_ffn``, ``build_moe_ffn``),
``src/models/llama.cpp``, ``gemma3.cpp``, ``deepseek2.cpp``, ``mamba-base.cpp``.
"""

from __future__ import annotations

from collections.abc import Sequence

from labkit.gguf_file import Header
from labkit.gguf_file.formats import TensorType, tensor_type
from labkit.kv_cache.layers import ModelLayers, largest
from labkit.memory.allocator import Tensor
from labkit.memory.graph_blocks import Batch, Blocks, Mask

_HALF, _INDEX = 2, 8  # bytes of an f16, of a 64-bit index
_COPIES = 4  # of each input, where devices process several batches at once (GGML_SCHED_MAX_COPIES)
# A weight's type -> the type that activations are converted to; F32 stays F32.
_PARTNERS = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4", "Q1_0", "Q2_0"), "Q8_0"),
    **dict.fromkeys(("Q4_1", "Q5_1"), "Q8_1"),
    "F16": "F16",
    "BF16": "BF16",
}
_INPUT_ONLY = ("token_embd.", "position_embd.", "token_types.")


def graph_bytes(
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


class _Outline(Blocks):
    """A whole model, layer by layer."""

    def give_tokens(self) -> None:
        """Begin with tokens, and with room for embeddings given instead."""
        self.tokens = self._input(self.n_tokens)
        self._input(self.n_tokens * self.width)

    def give_activations(self) -> None:
        """Begin with activations from another device."""
        self.activations = self._input(self.n_tokens * self.width)

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
        if self.layers.window:
            return [False, True]
        return [False] if any(layer.key_width for layer in self.layers.layers) else []

    def _mask(self, windowed: bool) -> Mask:
        batch = self.batch
        n_cells = batch.n_window_cells if windowed else batch.n_cells
        latent = bool(self.header.hparam("attention.key_length_mla"))
        keys = self._input(batch.n_tokens, _INDEX)
        width = 1 if batch.flash_attn else self.layers.widest_value
        values = None if latent else self._input(batch.n_tokens * width, _INDEX)
        mask = self._input(n_cells * batch.n_tokens, _HALF if batch.flash_attn else 4)
        return Mask(mask, keys, values, n_cells)

    def _hadamard(self) -> None:
        """Add the matrices that rotate keys and values before quantization: of the largest power of two that divides."""
        for name, rotates in (("key", self.batch.rotates_keys), ("value", self.batch.rotates_values)):
            length = max((getattr(layer, f"{name}_length") for layer in self.layers.layers), default=0)
            if rotates and length:
                side = 64
                while length % (2 * side) == 0:
                    side *= 2
                self.rotations[name] = self.graph.input(side * side)

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
        elif layer.n_heads:
            current = self._attention(index, layer, current)
        residual = given
        if is_last:
            current, residual = (graph.compute(n_rows * self.width, part, self.chosen) for part in (current, given))
        if self._has(index, "post_attention_norm.weight") and self._has(index, "ffn_norm.weight"):
            current = self._norm(current)
        current = graph.overwrite(current, residual)
        has_experts = self._has(index, "ffn_gate_inp.weight")
        if not (self._rows(index, "ffn_up") or has_experts):
            return current
        outcome = (self._experts if has_experts else self._dense)(index, self._norm(current), n_rows)
        if self._has(index, "post_ffw_norm.weight"):
            outcome = self._norm(outcome)
        return graph.overwrite(outcome, current)


def work_bytes(header: Header, layers: ModelLayers, batch: Batch, value: TensorType) -> int:
    """Return the bytes of the largest conversion in a batch.

    Notes
    -----
    ``n_tokens * columns`` numbers for a weight matrix (times the used experts, for theirs); for attention without flash
    attention, ``n_tokens * heads * cells`` weights of the values.

    References
    ----------
    llama.cpp ``ggml/src/ggml-cpu/ggml-cpu.c`` (``ggml_graph_plan``: ``GGML_OP_MUL_MAT``, ``GGML_OP_MUL_MAT_ID``;
    ``type_traits_cpu``: ``vec_dot_type``).
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
