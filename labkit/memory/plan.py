"""What determines a model's memory: the arguments of `estimate_memory_usage`, checked, with `load_model`'s defaults."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.checks import check_flag, check_int, check_items, check_number, shown
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.gguf_file import Header
from labkit.gguf_file.formats import TensorType
from labkit.gguf_file.preflight import preflight
from labkit.kv_cache.layers import ModelLayers, model_layers
from labkit.kv_cache.size import CacheShape, cache_shape, cache_type, check_cache_types, rotates
from labkit.memory.graph_blocks import Batch
from labkit.memory.weights import HOST, WeightBuffer, place_layers, place_weights
from labkit.model_info import vocab_size
from labkit.units import round_up

if TYPE_CHECKING:
    from labkit.engine.settings import ModelSettings
    from labkit.system import EngineBuild


_DEFAULTS: dict[str, Any] = {
    "n_gpu_layers": 0, "type_k": "f16", "type_v": "f16", "n_batch": 512, "n_ubatch": 512, "n_seq": 1, "use_mmap": None,
    "flash_attn": "auto", "swa_full": False, "n_outputs_max": None, "devices": None,
    "tensor_split": None, "override_tensor": None, "build": None,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that determines a model's memory, checked and with defaults filled in."""

    header: Header
    layers: ModelLayers
    cells: CacheShape
    batch: Batch
    n_vocab: int
    key: TensorType
    value: TensorType
    settings: ModelSettings  # what `load_model` would choose
    n_seq: int
    n_outputs_max: int
    layer_devices: tuple[int, ...]
    device_names: tuple[str, ...]
    build: EngineBuild
    features: tuple[str, ...]
    on_cpu: tuple[str, ...]  # patterns of tensors that stay on the CPU
    gpu_layers: int | None  # on this machine's GPUs; None where the dry run cannot put layers on the devices
    has_cuda: bool

    def name(self, device: int) -> str:
        """Return a device's name by its number."""
        return "CPU" if device == HOST else self.device_names[device]

    @functools.cached_property
    def weight_buffers(self) -> list[WeightBuffer]:
        """The buffers that hold the weights."""
        return place_weights(
            self.header, self.layer_devices, mapped=self.settings.use_mmap, features=self.features, on_cpu=self.on_cpu
        )


def make_plan(header: Header, n_ctx: int, **given: Any) -> Plan:
    """Check the arguments of `estimate_memory_usage` and fill in what `load_model` would choose.

    ``build`` is the llama.cpp to plan for; by default this machine's.
    """
    from labkit.engine.options import check_override_tensor
    from labkit.engine.settings import LoadRequest, choose_settings
    from labkit.load_check.facts import facts_of

    given = {**_DEFAULTS, **given}
    for name, low in (("n_ctx", 0), ("n_batch", 1), ("n_ubatch", 1), ("n_seq", 1), ("n_gpu_layers", -1)):
        check_int(name, n_ctx if name == "n_ctx" else given[name], low, 2**31 - 1)
    key, value = cache_type("type_k", given["type_k"]), cache_type("type_v", given["type_v"])
    flash = None if isinstance(given["flash_attn"], str) and given["flash_attn"] == "auto" else given["flash_attn"]
    flags = {"flash_attn": flash, **{name: given[name] for name in ("use_mmap", "swa_full")}}
    for name, flag in flags.items():
        if flag is not None:
            check_flag(name, flag)
    override = given["override_tensor"]
    on_cpu = () if override is None else check_override_tensor("override_tensor", override)
    served = None if given["devices"] is None else check_items("devices", given["devices"], "devices")
    wanted = given["n_outputs_max"]
    if wanted is not None:
        check_int("n_outputs_max", wanted, 0, 2**31 - 1)
    preflight(header, vocabulary=False)  # no figures for a model that load_model would refuse
    build = installed = given["build"] or engine()
    if served is not None and not any(gpu.name in served for gpu in build.gpus):  # this machine's GPUs are not used
        build = build.replace(has_gpu=False, devices=tuple(device for device in build.devices if device not in build.gpus))
    request = LoadRequest(
        n_ctx=n_ctx,
        n_threads=1,
        n_gpu_layers=given["n_gpu_layers"] if build.has_gpu else 0,
        **{name: given[name] for name in ("n_batch", "n_ubatch", "use_mmap", "swa_full")},
        flash_attn=flash,
        type_k=key.name.lower(),
        type_v=value.name.lower(),
    )
    settings = choose_settings(request, facts_of(header), build)
    layers = model_layers(header)
    check_cache_types(layers, key, value, flash_attn=settings.flash_attn)
    n_seq = given["n_seq"]
    cells = cache_shape(layers, settings.n_ctx, n_seq=n_seq, n_ubatch=settings.n_ubatch, swa_full=settings.swa_full)
    n_outputs = n_seq if wanted is None else wanted or settings.n_batch
    names, shares = _devices(served, given["tensor_split"], bool(given["n_gpu_layers"]) or build.has_gpu)
    return Plan(
        header=header,
        layers=layers,
        cells=cells,
        batch=_batch(layers, cells, key, value, settings.n_ubatch, n_outputs, n_seq, settings.flash_attn),
        n_vocab=vocab_size(header) or 0,
        key=key,
        value=value,
        settings=settings,
        n_seq=n_seq,
        n_outputs_max=n_outputs,
        layer_devices=tuple(place_layers(len(layers.layers), given["n_gpu_layers"], shares)),
        device_names=names,
        build=installed,
        features=build.weight_features,
        on_cpu=on_cpu,
        gpu_layers=given["n_gpu_layers"] if served is None and build.has_gpu and not on_cpu else None,
        has_cuda=build.has_gpu and "CUDA" in build.backends,
    )


@functools.lru_cache(maxsize=1)
def engine() -> EngineBuild:
    """Return this machine's llama.cpp build, asked for once; where there is none, a usual one for this processor."""
    from labkit.system import engine_build_or_usual

    return engine_build_or_usual()


def _devices(served: Sequence[Any] | None, tensor_split: Any, has_device: bool) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the names of the devices that share the layers, and their shares."""
    if served is not None:
        names = tuple(device if isinstance(device, str) else _endpoint(device) for device in served)
    else:
        names = ("device",) if has_device else ()
    shares = (1.0,) * len(names)
    if tensor_split is not None:
        split = check_items("tensor_split", tensor_split, "numbers")
        shares = tuple(check_number("tensor_split", share, 0, math.inf) for share in split)
    if len(shares) != len(names) or (names and not sum(shares) > 0):
        raise ArgumentError(f"tensor_split={shown(tensor_split)}: each of {len(names)} devices needs a share of 0 or more")
    return names, shares


def _endpoint(device: Any) -> str:
    from labkit.devices import ServedDevice

    if not isinstance(device, ServedDevice):
        raise ArgumentTypeError(f"devices must be addresses, names or what start_device returns, not {shown(device)}")
    return str(device.endpoint)


def _batch(
    layers: ModelLayers,
    cells: CacheShape,
    key: TensorType,
    value: TensorType,
    n_ubatch: int,
    n_outputs: int,
    n_seq: int,
    flash_attn: bool,
) -> Batch:
    """Return the batch that llama.cpp reserves memory for: whole sequences, and the requested rows of logits."""
    tokens = min(cells.n_ctx, n_ubatch)
    outputs = min(tokens, n_outputs)
    if tokens % n_seq:
        tokens = round_up(tokens, n_seq)
        outputs = max(outputs, tokens)
    caching = [layer for layer in layers.layers if layer.key_width]
    latent = any(not layer.value_width for layer in caching)
    return Batch(
        n_tokens=tokens,
        n_outputs=outputs,
        n_seq=n_seq,
        n_cells=cells.n_cells,
        n_window_cells=cells.n_window_cells,
        flash_attn=flash_attn,
        rotates_keys=not latent and rotates([layer.key_length for layer in caching], key),
        rotates_values=not latent and rotates([layer.value_length for layer in caching], value),
    )
