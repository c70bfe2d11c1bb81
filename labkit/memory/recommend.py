"""recommend_settings: the largest context, the cache type and the number of layers on devices that fit."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.checks import check_int, check_items, shown
from labkit.errors import ArgumentError
from labkit.gguf_file import Header
from labkit.gguf_file.formats import tensor_type
from labkit.kv_cache import CELLS
from labkit.kv_cache.layers import model_layers, number
from labkit.kv_cache.size import may_cache
from labkit.memory.estimate import estimate_plan
from labkit.memory.plan import make_plan
from labkit.memory.records import MemoryEstimate
from labkit.model_info import read_model_header
from labkit.records import Record
from labkit.system import available_ram_bytes, resident_bytes
from labkit.units import format_bytes, parse_bytes, round_up

_DRIVER = 256 * 1024**2  # of each GPU, left free for the driver and the desktop
_HEADROOM = 0.05  # share of the RAM reserved for other programs
_UNKNOWN_CONTEXT = 4096  # where the file has no training context


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Recommendation(Record):
    """Recommended settings to load a model with.

    Attributes
    ----------
    n_ctx, n_gpu_layers : int
        As for `load_model`.
    type_k, type_v : str
        Cache types.
    fits : bool
        Whether the model fits; if not, the settings are the smallest possible.
    reasons : tuple of str
        One sentence per choice.
    ram_bytes : int
        The assumed RAM.
    estimate : MemoryEstimate
        The memory these settings need.
    """

    n_ctx: int
    type_k: str
    type_v: str
    n_gpu_layers: int
    fits: bool
    reasons: tuple[str, ...]
    ram_bytes: int
    estimate: MemoryEstimate

    def as_arguments(self) -> dict[str, Any]:
        """Return the settings as arguments of `load_model`.

        Examples
        --------
        >>> recommend_settings(ram="2 GiB").as_arguments()
        {'n_ctx': 8192, 'type_k': 'f16', 'type_v': 'f16', 'n_gpu_layers': 0}
        """
        return {name: self[name] for name in ("n_ctx", "type_k", "type_v", "n_gpu_layers")}


def recommend_settings(
    model_path: str | Path | None = None,
    *,
    ram: int | str | None = None,
    devices: Sequence[int | str] | None = None,
    n_ctx: int | None = None,
) -> Recommendation:
    """Recommend the largest context, the cache type and the number of layers on devices that fit.

    Parameters
    ----------
    model_path : str, Path or None
        As for `estimate_memory_usage`.
    ram : int or str, optional
        Bytes, or text such as ``"8 GiB"``; None is the RAM that this process may use now.
    devices : sequence of int or str, optional
        The memory of each device for layers, as ``ram``; None is the free memory of this machine's GPUs.
    n_ctx : int, optional
        The required context; None is the largest that fits, up to the model's training context.

    Raises
    ------
    ModelNotFoundError, GGUFError, ArgumentError
        As in `estimate_memory_usage`.

    Notes
    -----
    The cache stays in F16 where the requested (or training) context fits; else Q8_0 holds nearly twice as many tokens at a
    small loss. Smaller types are not recommended automatically: measure their loss first. 5 % of the RAM is kept free.
    """
    if n_ctx is not None:
        check_int("n_ctx", n_ctx, 1, 2**31 - 1)
    header = read_model_header(model_path)
    room = available_ram_bytes() + resident_bytes() if ram is None else _size("ram", ram)
    given = () if devices is None else check_items("devices", devices, "memory sizes")
    sizes = {f"device {index}": _size(f"devices[{index}]", size) for index, size in enumerate(given)}
    capacities = _own_gpus() if devices is None else sizes
    search = _Search(header, int(room * (1 - _HEADROOM)), capacities)
    wanted = round_up(n_ctx or number(header, "context_length", _UNKNOWN_CONTEXT), CELLS)
    kind, context = search.choose(wanted, exactly=n_ctx is not None)
    layers = search.most_layers(context, kind)
    plan_layers = 0 if layers is None else layers
    estimate = estimate_plan(search.plan(context, kind, plan_layers), "auto")
    fits = layers is not None
    return Recommendation(
        n_ctx=context,
        type_k=kind,
        type_v=kind,
        n_gpu_layers=plan_layers,
        fits=fits,
        reasons=tuple(search.reasons(wanted, context, kind, plan_layers, fits=fits)),
        ram_bytes=room,
        estimate=dataclasses.replace(estimate, fits=fits and estimate.ram_bytes <= room, available_bytes=room),
    )


def _size(name: str, value: int | str) -> int:
    size = parse_bytes(value)
    if size <= 0:
        raise ArgumentError(f"{name}={shown(value)} is not a memory size: give bytes, or text such as '8 GiB'")
    return size


def _own_gpus() -> dict[str, int]:
    """Return the free memory of this machine's GPUs by name, without what their driver needs while it computes."""
    from labkit.system import engine_build_or_usual

    free = {gpu.name: gpu.memory_free_bytes for gpu in engine_build_or_usual().gpus}
    return {name: size - _DRIVER for name, size in free.items() if size > _DRIVER}


class _Search:
    """Search for the settings of one model that fit."""

    def __init__(self, header: Header, ram: int, capacities: dict[str, int]) -> None:
        self.header, self.ram, self.capacities = header, ram, capacities
        self.n_layers = number(header, "block_count") + 1  # the output counts as a layer

    def plan(self, n_ctx: int, kind: str, n_gpu_layers: int) -> Any:
        """Return the plan of a load."""
        return make_plan(
            self.header,
            n_ctx,
            n_gpu_layers=n_gpu_layers,
            type_k=kind,
            type_v=kind,
            devices=list(self.capacities) or None,
            tensor_split=list(self.capacities.values()) or None,
        )

    def _fits(self, n_ctx: int, kind: str, n_gpu_layers: int) -> bool:
        sizes = estimate_plan(self.plan(n_ctx, kind, n_gpu_layers), "formula").by_device()
        room = {**self.capacities, "CPU": self.ram}
        return all(size <= room[name] for name, size in sizes.items())

    def most_layers(self, n_ctx: int, kind: str) -> int | None:
        """Return the maximum number of layers on devices; None where nothing fits."""
        candidates = range(self.n_layers, -1, -1) if self.capacities else (0,)
        return next((count for count in candidates if self._fits(n_ctx, kind, count)), None)

    def _largest(self, wanted: int, kind: str) -> int:
        """Return the largest context, up to ``wanted``, that fits in RAM and devices; 0 for none."""
        sizes = range(CELLS, wanted + 1, CELLS)
        return CELLS * bisect.bisect_left(sizes, True, key=lambda size: self.most_layers(size, kind) is None)

    def choose(self, wanted: int, *, exactly: bool) -> tuple[str, int]:
        """Return the cache type and the context."""
        best = ("f16", self._largest(wanted, "f16"))
        if best[1] < wanted and may_cache(model_layers(self.header), *[tensor_type("q8_0")] * 2, flash_attn=True):
            other = ("q8_0", self._largest(wanted, "q8_0"))
            best = max(best, other, key=lambda choice: choice[1])
        return (best[0], wanted if exactly else max(best[1], CELLS))

    def reasons(self, wanted: int, context: int, kind: str, layers: int, *, fits: bool) -> list[str]:
        """Return a sentence for each choice."""
        reasons = [f"{format_bytes(self.ram)} RAM budget, 5 % reserved for other programs"]
        if not fits:
            smallest = estimate_plan(self.plan(context, kind, 0), "formula")
            reasons.append(
                f"n_ctx={context:,}: does not fit; it needs {format_bytes(smallest.ram_bytes)}, "
                f"{format_bytes(smallest.weights_bytes + smallest.repack_bytes)} for weights: use a smaller quantization"
            )
            return reasons
        if context == wanted:
            reasons.append(f"n_ctx={context:,}: the requested size, or the model's training context")
        else:
            reasons.append(f"n_ctx={context:,}: the largest that fits; {wanted:,} does not")
        reasons.append(
            "cache in F16: llama.cpp's default"
            if kind == "f16"
            else "cache in Q8_0: holds more tokens than F16 at a small loss; needs flash attention"
        )
        if self.capacities:
            room = ", ".join(map(format_bytes, self.capacities.values()))
            reasons.append(f"n_gpu_layers={layers}: the most of {self.n_layers} layers that fit in {room} with their cache")
        return reasons
