"""Placement of the weights: mapped, loaded or repacked, and which layers on which device.

References
----------
llama.cpp ``src/llama-model.cpp`` (``load_tensors``: devices of layers, buffers), ``src/llama-model-loader.cpp``
(``create_tensor``: which buffer a tensor goes to; ``get_mapping_range``), ``ggml/src/ggml-cpu/repack.cpp``.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from labkit.gguf_file import Header
from labkit.gguf_file.tensor_table import TensorInfo
from labkit.system import is_repacked
from labkit.units import round_up

HOST = -1  # the device number of the CPU
ALIGNMENT = 32  # of a tensor in a buffer of the CPU (ggml's TENSOR_ALIGNMENT)
_BLOCK = re.compile(r"blk\.(\d+)\.")
_INPUTS = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
_OUTPUTS = ("output", "cls", "dense_2", "dense_3", "altup_proj", "altup_unembd_proj")
_ROPE = ("rope_freqs", "rope_factors_long", "rope_factors_short")  # each device with layers has a copy


@dataclasses.dataclass(frozen=True)
class WeightBuffer:
    """One of llama.cpp's model buffers."""

    device: int  # HOST, or the number of the device
    kind: str  # "mapped" (pages of the file), "loaded" (a copy in memory) or "repacked" (a copy in a different order)
    n_bytes: int
    twice_bytes: int = 0  # that another buffer of the same device holds too


def place_layers(n_layers: int, n_gpu_layers: int, shares: Sequence[float]) -> list[int]:
    """Return the device of each layer, the output last; the first layers stay on the host.

    The output counts as a layer, -1 is all; ``shares`` has one number per device.
    """
    wanted = n_layers + 1 if n_gpu_layers < 0 else min(n_gpu_layers, n_layers + 1)
    if not shares or not wanted:
        return [HOST] * (n_layers + 1)
    first = n_layers + 1 - wanted
    sums = list(itertools.accumulate(shares))
    bounds = [bound / sums[-1] for bound in sums]
    devices = [HOST] * first
    for index in range(wanted):
        position = index / wanted
        devices.append(next((number for number, bound in enumerate(bounds) if bound > position), len(bounds) - 1))
    return devices


def place_weights(
    header: Header, layer_devices: Sequence[int], *, mapped: bool, features: Iterable[str], on_cpu: Sequence[str] = ()
) -> list[WeightBuffer]:
    """Return the buffers that hold a model's weights.

    ``mapped``: the host's share of the file is mapped rather than read. ``features`` are the CPU features in use
    (`labkit.EngineBuild.features`), which determine the repacked weights. Tensors whose names match a pattern of ``on_cpu``
    stay on the host.
    """
    have = tuple(features)
    plain: dict[int, list[TensorInfo]] = {}
    repacked: list[TensorInfo] = []
    for tensor, planned in _placed(header, layer_devices):
        device = HOST if any(re.search(pattern, tensor.name) for pattern in on_cpu) else planned
        if device == HOST and _repacks(tensor, have, as_output=False):
            repacked.append(tensor)
        else:
            plain.setdefault(device, []).append(tensor)
    twice = _duplicate_output(header, layer_devices[-1], have, plain, repacked)
    if HOST in plain and mapped:
        spans = sum(_span(plain[HOST], part) for part in range(max(len(header.names), 1)))
        buffers = [WeightBuffer(HOST, "mapped", spans)]
    else:
        buffers = [WeightBuffer(HOST, "loaded", _padded(plain.get(HOST, ())))]
    buffers.append(WeightBuffer(HOST, "repacked", _padded(repacked), _padded(repacked) if mapped else twice))
    buffers += [
        WeightBuffer(device, "loaded", _padded(tensors)) for device, tensors in sorted(plain.items()) if device != HOST
    ]
    return [buffer for buffer in buffers if buffer.n_bytes]


def _placed(header: Header, layer_devices: Sequence[int]) -> Iterator[tuple[TensorInfo, int]]:
    """Yield each tensor with its device."""
    for tensor in header.tensors:
        stem = tensor.name.rsplit(".", 1)[0]
        block = _BLOCK.match(tensor.name)
        if block is not None:
            number = int(block[1])
            yield tensor, layer_devices[number] if number < len(layer_devices) - 1 else HOST
        elif stem in _INPUTS:
            yield tensor, HOST
        elif stem in _OUTPUTS or "output_norm" in stem:
            yield tensor, layer_devices[-1]
        elif stem in _ROPE:
            yield from ((tensor, device) for device in dict.fromkeys(layer_devices[:-1]))
        else:  # used in the first layer
            yield tensor, layer_devices[0]


def _repacks(tensor: TensorInfo, features: tuple[str, ...], *, as_output: bool) -> bool:
    """Return whether the CPU repacks a weight: a matrix of a plain product, or the experts' stacked matrices."""
    name = tensor.name
    if not name.endswith(".weight") or (not as_output and name.split(".")[0] in _INPUTS):
        return False
    if len(tensor.shape) != (3 if "_exps." in name else 2):
        return False
    return is_repacked(tensor.type.name, tensor.shape[1], tensor.shape[0], features)


def _duplicate_output(
    header: Header,
    device: int,
    features: tuple[str, ...],
    plain: dict[int, list[TensorInfo]],
    repacked: list[TensorInfo],
) -> int:
    """Add the second copy of an embedding tied to the output, where one cannot serve both; return its bytes."""
    table = header.tensor("token_embd.weight")
    if table is None or header.tensor("output.weight") is not None:
        return 0
    if device != HOST:
        plain.setdefault(device, []).append(table)
    elif _repacks(table, features, as_output=True):
        repacked.append(table)
        return _padded([table])
    return 0


def _span(tensors: Iterable[TensorInfo], part: int) -> int:
    """Return the bytes from a file's first mapped tensor to the end of its last."""
    here = [tensor for tensor in tensors if tensor.part == part]
    if not here:
        return 0
    return max(tensor.offset + tensor.n_bytes for tensor in here) - min(tensor.offset for tensor in here)


def _padded(tensors: Iterable[TensorInfo]) -> int:
    return sum(round_up(tensor.n_bytes, ALIGNMENT) for tensor in tensors)
