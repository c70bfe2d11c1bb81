"""GPU layers explorer: memory in RAM and on a device by number of GPU layers, estimated and measured in a real load."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from labkit.checks import check_int
from labkit.devices import ServedDevice, start_device
from labkit.engine import Model, load_model, stream_text
from labkit.errors import LabkitError
from labkit.gguf_file import Header
from labkit.plots.memory import plot_fit
from labkit.plots.picture import MIB, canvas
from labkit.system import Device, available_ram_bytes, engine_build, resident_bytes
from labkit.tables import Table
from labkit.units import format_bytes, round_up
from labkit.widgets.explorer import Values
from labkit.widgets.file_explorer import FileExplorer
from labkit.widgets.memory import context_slider, mib_box
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.controls import button, slider
from labkit.widgets.parts.view import View
from labkit.widgets.parts.what_fits import (
    DEVICE,
    RAM,
    Sizes,
    by_place,
    estimate_from_header,
    most_gpu_layers,
    n_layers,
    reported,
)

PROMPT, N_TOKENS = "Once upon a time", 24
_EVERY_S = 0.1  # between progress updates in the browser

Report = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class RealLoad:
    """The result of a real load: the sizes as the engine reports them, and the decode speed."""

    sizes: Sizes
    tokens_per_second: float


def describe(estimated: Sizes, capacities: Mapping[str, int], layers: int, of: int, most: int) -> str:
    """Describe the memory of each place, whether it fits, and how many layers would."""
    needed = {place: sum(estimated.get(place, {}).values()) for place in capacities}
    uses = [f"{format_bytes(needed[place])} of {format_bytes(size)} {_where(place)}" for place, size in capacities.items()]
    full = [place for place, size in capacities.items() if needed[place] > size]
    verdict = f"does not fit {' and '.join(map(_where, full))}" if full else "fits"
    return (
        f"{layers} of {of} layers on the device (the output counts as one): {verdict}. {'; '.join(uses)}. "
        f"At most {most} of {of} layers fit on the device."
    )


def _where(place: str) -> str:
    return "in RAM" if place == RAM else "on the device"


class GPULayersExplorer(FileExplorer):
    """RAM and device memory by number of GPU layers: an estimate, and a real load if there is a device.

    The device is this machine's GPU, or a second process that lends this machine's CPU and ends with the explorer. ``n_ctx``
    is the initial context in tokens; 0 is the trained one. ``device_mib`` is the device's memory, by default the GPU's free
    memory, or without a GPU two thirds of what all layers need. A loaded model's file is loaded again.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an invalid ``n_ctx`` or ``device_mib``.
    """

    title: ClassVar[str] = "GPU layers explorer"

    def __init__(self, model: Model | Path | str | None = None, *, n_ctx: int = 512, device_mib: int | None = None) -> None:
        self.use_file(model)
        self.device: ServedDevice | None = None
        self.loaded: dict[tuple[int, int], RealLoad] = {}
        self._is_loading = False
        self._gpus: list[Device] = [one for one in engine_build().devices if one.kind in ("GPU", "IGPU")]
        self._ram_bytes = available_ram_bytes() + resident_bytes()
        if device_mib is not None:
            check_int("device_mib", device_mib, 1, 2**31 - 1)
        header: Header | None = None
        try:
            header = self.header()
            count, everything = n_layers(header), estimate_from_header(header, n_ctx, n_gpu_layers=-1).gpu_bytes
        except LabkitError:  # `compute` raises it again, and the explorer shows it
            count, everything = 1, MIB
        free = sum(one.memory_free_bytes for one in self._gpus) or round_up(everything * 2 // 3, 16 * MIB)
        super().__init__(
            {
                "n_gpu_layers": slider("GPU layers", count // 2, 0, count, 1),
                "n_ctx": context_slider(header, n_ctx),
                "device_mib": mib_box("Device memory (MiB)", free if device_mib is None else device_mib * MIB),
            },
            actions=[
                button("Start a device on this machine", self.start_device),
                button("Load with these settings", self.load),
                button("Stop", self.stop),
            ],
        )

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Estimate by formula, and compare with a real load of the same values, if there was one."""
        header, layers, n_ctx = self.header(), values["n_gpu_layers"], values["n_ctx"]
        estimated = by_place(estimate_from_header(header, n_ctx, n_gpu_layers=layers))
        capacities = {RAM: self._ram_bytes, DEVICE: values["device_mib"] * MIB}
        most = most_gpu_layers(header, n_ctx, capacities[DEVICE])
        found = self.loaded.get((layers, n_ctx))
        sentence = describe(estimated, capacities, layers, n_layers(header), most)
        if found is not None:
            used = format_bytes(sum(found.sizes.get(DEVICE, {}).values()))
            sentence += f" Loaded: {used} reported on the device, {found.tokens_per_second:.1f} tokens/s."
            sentence += " The engine reports only its buffers; runtime is the rest of the process."
        axes = canvas(2.2 if found is None else 3.2, left=0.14, bottom_inches=0.95)
        plot_fit(estimated, capacities, reported=None if found is None else found.sizes, axes=axes)
        return View(sentence, axes, [_sizes_table(estimated, found), *self._loads_table()])

    def start_device(self) -> None:
        """Start a second process that lends this machine's CPU, in the background."""
        self.start(self._start_device)

    def load(self) -> None:
        """Load the model with the current settings, generate a few tokens, and show what the engine reported."""
        self._is_loading = True
        super().start(self._load)

    def start(self, work: Callable[[Ticket], None]) -> None:
        """Run some work in the explorer's thread; it replaces the current work."""
        self._is_loading = False
        super().start(work)

    def stop(self) -> bool:
        """Cancel running and waiting work; return whether there was any."""
        self._is_loading = False
        return super().stop()

    def close(self) -> None:
        """Close the explorer and the device that it started."""
        super().close()
        if self.device is not None:
            self.device.close()

    def _moved(self, change: object) -> None:
        if not self._is_loading:  # a load continues while a slider moves; the view is updated at its end
            super()._moved(change)

    def _start_device(self, ticket: Ticket) -> None:
        if self._gpus:
            self.report(f"not needed: this machine has a GPU, {self._gpus[0].description}, which is used")
            return
        if self.device is None or not self.device.is_running:
            self.report("starting a process that lends this CPU")
            device = start_device(n_threads=1)
            if ticket.cancelled:
                device.close()
                return
            self.device = device
        self.report(f"a device runs at {self.device.endpoint} ({self.device.description}, 1 thread) until this is closed")

    def _load(self, ticket: Ticket) -> None:
        values = self.values
        layers, n_ctx = values["n_gpu_layers"], values["n_ctx"]
        try:
            found = load_and_measure(self._file, n_ctx, layers, self._devices(layers), self.report, ticket)
            if found is not None:
                self.loaded[layers, n_ctx] = found
        finally:
            self._is_loading = False
            if not self.is_closed:
                self.show(self.compute(self.values, ticket))
        if found is not None:
            self.report("loaded, measured and closed")

    def _devices(self, layers: int) -> list[str | ServedDevice] | None:
        """Return the ``devices`` for `load_model`."""
        if layers == 0 or self._gpus:
            return None
        if self.device is None or not self.device.is_running:
            raise LabkitError("this machine has no GPU: press “Start a device on this machine”, or choose 0 GPU layers")
        return [self.device]

    def _loads_table(self) -> list[Table]:
        rows = [
            (str(layers), f"{n_ctx:,}", _mib(sum(one.sizes.get(DEVICE, {}).values())), f"{one.tokens_per_second:.1f}")
            for (layers, n_ctx), one in sorted(self.loaded.items())
        ]
        columns = ("GPU layers", "context (tokens)", "on the device, reported (MiB)", "decode (tokens/s)")
        return [Table("Loads so far", columns, rows)] if rows else []


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / MIB:,.1f}"


def _sizes_table(estimated: Sizes, found: RealLoad | None) -> Table:
    """Return a table with parts as rows, and places, estimated and reported, as columns."""
    columns = [(f"{place}, estimated (MiB)", estimated.get(place, {})) for place in (RAM, DEVICE)]
    if found is not None:
        columns += [(f"{place}, reported (MiB)", found.sizes.get(place, {})) for place in (RAM, DEVICE)]
    names = list(dict.fromkeys(name for _, parts in columns for name in parts))
    rows = [(name, *(_mib(parts[name]) if name in parts else "" for _, parts in columns)) for name in names]
    rows.append(("total", *(_mib(sum(parts.values())) for _, parts in columns)))
    return Table("Memory by part and place", ("part", *(title for title, _ in columns)), rows)


def load_and_measure(
    file: Path | str,
    n_ctx: int,
    n_gpu_layers: int,
    devices: Sequence[str | ServedDevice] | None,
    report: Report,
    ticket: Ticket,
) -> RealLoad | None:
    """Load a model, generate 24 tokens greedily, and return the speed and the buffer sizes; None if cancelled."""
    rate = 0.0
    try:
        with load_model(file, n_ctx, n_gpu_layers=n_gpu_layers, devices=devices, progress=_advance(report, ticket)) as model:
            stream = stream_text(model, PROMPT, N_TOKENS, 0.0)
            ticket.on_cancel(stream.close)
            for chunk in stream:
                report("generating", chunk.n_generated, N_TOKENS)
                rate = chunk.tokens_per_second
            sizes = reported(model.load_log)
    except LabkitError:
        if not ticket.cancelled:
            raise
    return None if ticket.cancelled else RealLoad(sizes, rate)


def _advance(report: Report, ticket: Ticket) -> Callable[[float], None]:
    """Return a progress callback for `load_model` that also ends a cancelled load."""
    updated_s = 0.0

    def advance(fraction: float) -> None:
        nonlocal updated_s
        if ticket.cancelled:
            raise LabkitError("stopped")
        if time.monotonic() - updated_s > _EVERY_S:
            updated_s = time.monotonic()
            report("loading", round(100 * fraction), 100)

    return advance
