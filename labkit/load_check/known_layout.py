"""Files whose tensors are exactly those that a known architecture's graph reads: they need no trial."""

from __future__ import annotations

from labkit.gguf_file import Header
from labkit.ghost.layout import layout
from labkit.ghost.shape import Shape

_DENSE = frozenset({"llama", "qwen2", "qwen3", "gemma3"})
_OPTIONAL = frozenset({"rope_freqs.weight"})
_SIZES = {
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_ff": "feed_forward_length",
    "n_head": "attention.head_count",
}
_MOST_LAYERS = 512


def has_known_layout(header: Header) -> bool:
    """Return whether every tensor that the graph reads exists with its shape, and no other."""
    shape = _shape(header)
    if shape is None:
        return False
    expected = {tensor.name: tensor.shape for tensor in layout(header.architecture, shape)}
    found = {tensor.name: tuple(tensor.shape) for tensor in header.tensors if tensor.name not in _OPTIONAL}
    factors = header.tensor("rope_freqs.weight")
    return expected == found and (factors is None or tuple(factors.shape) == (shape.head // 2,))


def _shape(header: Header) -> Shape | None:
    """Return the sizes of a dense model; None where its architecture is another, or layers differ."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    sizes = {name: header.hparam(key) for name, key in _SIZES.items()}
    sizes["n_head_kv"] = header.hparam("attention.head_count_kv", sizes["n_head"])
    sizes["n_embd_head"] = header.hparam("attention.key_length", 0)
    numbers = all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**31 for size in sizes.values())
    if header.architecture not in _DENSE or not numbers or not 0 < sizes["n_layer"] <= _MOST_LAYERS:
        return None
    others = ("expert_count", "nextn_predict_layers")
    if any(header.hparam(key) for key in others) or isinstance(tokens, (str, int, float, type(None))):
        return None
    if header.hparam("attention.value_length") not in (None, header.hparam("attention.key_length")):
        return None
    tied = header.tensor("output.weight") is None
    return Shape(n_vocab=len(tokens), n_ctx_train=1, tied=tied, **sizes)
