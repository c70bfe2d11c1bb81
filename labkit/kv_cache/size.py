"""Size of the cache: cells, rows, layers, and the recurrent state.

References
----------
llama.cpp ``src/llama-context.cpp`` (rounding of the context), ``src/llama-kv-cache.cpp``, ``src/llama-kv-cache-iswa.cpp``,
``src/llama-memory-recurrent.cpp``; llama.cpp 0c1e570.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from labkit.checks import shown
from labkit.errors import ArgumentError
from labkit.gguf_file.formats import TENSOR_TYPES, TensorType, tensor_type
from labkit.kv_cache import CACHE_TYPES, CELLS
from labkit.kv_cache.layers import ModelLayers
from labkit.units import round_up

_PADDING = 32


class CacheShape(NamedTuple):
    """The cells of a cache."""

    n_ctx: int  # tokens, all sequences together
    n_streams: int  # sequences with separate cells
    n_cells: int  # per stream, in layers with full attention
    n_window_cells: int  # and in layers with a window


def cache_shape(
    layers: ModelLayers, n_ctx: int, *, n_seq: int = 1, n_ubatch: int = 512, unified: bool = False, swa_full: bool = False
) -> CacheShape:
    """Return the cells of a cache for ``n_ctx`` tokens.

    Notes
    -----
    ``cells = pad(n_ctx, 256)``, divided by the number of sequences unless they are unified (and padded again). A
    window needs ``pad(min(cells, window * sequences + n_ubatch), 256)``; the sequences count only where they share cells.
    """
    total = round_up(n_ctx, CELLS)
    streams = 1 if unified else n_seq
    cells = total if unified else round_up(total // n_seq, CELLS)
    window = cells
    if layers.window and not swa_full:
        window = round_up(min(cells, layers.window * (n_seq if unified else 1) + n_ubatch), CELLS)
    return CacheShape(cells * streams, streams, cells, window)


def cache_bytes(
    layers: ModelLayers, devices: Sequence[int], shape: CacheShape, *, key: TensorType, value: TensorType, flash_attn: bool
) -> dict[int, int]:
    """Return the size of keys and values by device, bytes.

    Notes
    -----
    A layer needs ``streams * cells * (row(type_k, key_width) + row(type_v, value_width))``, where a row of n numbers needs
    ``n / block * block_bytes``. Without flash attention, every layer's values are padded to the widest layer's.
    """
    total: dict[int, int] = {}
    for layer, device in zip(layers.layers, devices, strict=False):
        if not layer.key_width:
            continue
        cells = shape.n_streams * (shape.n_window_cells if layer.is_windowed else shape.n_cells)
        width = layer.value_width if flash_attn or not layer.value_width else layers.widest_value
        for row_bytes in (key.row_bytes(layer.key_width), value.row_bytes(width)):
            total[device] = total.get(device, 0) + round_up(cells * row_bytes, _PADDING)
    return total


def state_bytes(layers: ModelLayers, devices: Sequence[int], n_seq: int) -> dict[int, int]:
    """Return the size of the recurrent state by device, bytes: 4 bytes per number, one state per layer and sequence."""
    total: dict[int, int] = {}
    for layer, device in zip(layers.layers, devices, strict=False):
        if layer.state_width:
            total[device] = total.get(device, 0) + 4 * layer.state_width * max(n_seq, 1)
    return total


def rotates(lengths: Sequence[int], kind: TensorType) -> bool:
    """Return whether llama.cpp rotates before it quantizes into the cache: heads of equal length, a multiple of 64."""
    return kind.is_quantized and len(set(lengths)) == 1 and lengths[0] > 0 and lengths[0] % 64 == 0


def check_cache_types(layers: ModelLayers, key: TensorType, value: TensorType, *, flash_attn: bool) -> None:
    """Raise an ArgumentError for cache types that llama.cpp refuses for this model.

    Notes
    -----
    With flash attention, the block of a quantized type must divide each head's length; without it, a layer's row (where it
    does not, llama.cpp aborts). A quantized V cache needs flash attention. Latent attention needs equal types
    (``llama_init_from_model`` in ``src/llama-context.cpp``).
    """
    if value.is_quantized and not flash_attn:
        raise ArgumentError("a quantized V cache (type_v) needs flash attention: leave flash_attn out, or set it to True")
    caching = [layer for layer in layers.layers if layer.key_width]
    if key.id != value.id and any(not layer.value_width for layer in caching):
        kinds = f"type_k={key.name.lower()!r}, type_v={value.name.lower()!r}"
        raise ArgumentError(f"{kinds}: latent attention needs equal types of cache: give both the same, such as 'f16'")
    for name, kind, lengths in (
        ("k", key, [layer.key_length if flash_attn else layer.key_width for layer in caching]),
        ("v", value, [layer.value_length for layer in caching if layer.value_width]),
    ):
        odd = next((length for length in lengths if length % kind.block_size), None)
        if kind.is_quantized and odd is not None:
            given, what = f"type_{name}={kind.name.lower()!r}", "heads" if flash_attn else "rows"
            raise ArgumentError(
                f"{given} has blocks of {kind.block_size}, which do not divide this model's {what} of {odd}: use 'f16'"
            )


def may_cache(layers: ModelLayers, key: TensorType, value: TensorType, *, flash_attn: bool) -> bool:
    """Return whether llama.cpp accepts cache types for a model; see `check_cache_types`."""
    try:
        check_cache_types(layers, key, value, flash_attn=flash_attn)
    except ArgumentError:
        return False
    return True


def cache_type(name: str, value: object) -> TensorType:
    """Return a cache type by its name or its ggml number."""
    if isinstance(value, str) and value.lower() in CACHE_TYPES:
        return tensor_type(value)
    if isinstance(value, int) and not isinstance(value, bool) and value in TENSOR_TYPES:
        kind = TENSOR_TYPES[value]
        if kind.name.lower() in CACHE_TYPES:
            return kind
    raise ArgumentError(f"{name}={shown(value)} is not a cache type: choose {', '.join(CACHE_TYPES)}")
