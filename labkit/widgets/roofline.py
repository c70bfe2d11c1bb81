"""Roofline explorer: where a model lands on a machine's roofline, by quantization, bandwidth, and texts at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from labkit.checks import visible
from labkit.errors import ArgumentTypeError, LabkitError
from labkit.gguf_file import Header
from labkit.ghost.build import shape_header
from labkit.plots.picture import canvas
from labkit.plots.roofline import plot_roofline
from labkit.roofline import PassWork, SpeedPrediction, pass_work, predict_speed
from labkit.tables import Table
from labkit.units import counted
from labkit.widgets.explorer import Values
from labkit.widgets.file_explorer import FileExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.controls import button, dropdown, log_slider, slider
from labkit.widgets.parts.view import View

if TYPE_CHECKING:
    from labkit.engine import Model

MODELS = {
    "SmolLM2-135M": ("llama", "135M"),
    "Llama-3.2-1B": ("llama", "1B"),
    "Llama-3.1-8B": ("llama", "8B"),
    "Llama-2-70B": ("llama", "70B"),
    "Qwen3-30B-A3B (mixture of experts)": ("qwen3moe", "30B-A3B"),
}
TYPES = ("F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "Q2_K")
DEPTH = 512  # tokens in the cache of each text
_FILE = "the file"
_LIMITS = {"bandwidth": "reading", "compute": "computing"}
_USUAL = (10**10.7, 10**11.3)  # about 50 GB/s and 200 billion operations/s, as a laptop: until this machine is measured
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def describe(work: PassWork, machine: tuple[float, float], name: str, here: tuple[float, float] | None) -> str:
    """Describe where a pass lands: bytes, operations per byte, ceiling, and what limits it; and on this machine."""
    texts = "one text" if work.n_tokens == 1 else f"{work.n_tokens} texts at once"
    limit = _LIMITS[work.limit(*machine)]
    most = work.ceiling(*machine)
    each = "" if work.n_tokens == 1 else f" in all, {_speed(most / work.n_tokens)} for each"
    found = (
        f"{name}, {texts}: reads {work.n_bytes / 1e9:.2f} GB for {counted(work.n_tokens, 'token')}, "
        f"{work.operations_per_byte:.1f} operations per byte. At most {_speed(most)} tokens per second{each}; {limit} is "
        f"the limit."
    )
    if here is not None and not _same(here, machine):
        found += f" On this machine: at most {_speed(work.ceiling(*here))}."
    return found


class RooflineExplorer(FileExplorer):
    """The most tokens per second that reading and computing allow: for a file or a known shape, and any machine.

    ``machine``, from `predict_speed`, has this machine's figures. Without it, the sliders begin at those of a laptop, and a
    button measures this machine.

    Raises
    ------
    ArgumentTypeError
        For a machine that is not a SpeedPrediction.
    """

    title: ClassVar[str] = "Roofline explorer"

    def __init__(self, model: Model | Path | str | None = None, *, machine: SpeedPrediction | None = None) -> None:
        if machine is not None and not isinstance(machine, SpeedPrediction):
            raise ArgumentTypeError(f"machine must come from predict_speed(), not {type(machine).__name__}")
        self.use_file(model)
        self._here = None if machine is None else (machine.read_bytes_per_second, machine.operations_per_second)
        bandwidth, operations = self._here or _USUAL
        models = [(f"{_FILE}: {visible(Path(self._file).name)}", _FILE), *((name, name) for name in MODELS)]
        controls = {
            "model": dropdown("Model", models, _FILE),
            "type": dropdown("Quantization (of a shape)", TYPES, "Q4_K_M"),
            "n_parallel": slider("Texts at once", 1, 1, max(_COUNTS), 1),
            "bandwidth": log_slider("Bandwidth (GB/s)", bandwidth / 1e9, 0, 4),
            "operations": log_slider("Arithmetic (billion operations/s)", operations / 1e9, 0, 6),
        }
        controls["type"].disabled = True
        super().__init__(controls, actions=[button("Measure this machine", self.measure), button("Stop", self.stop)])

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Count the bytes and operations of one pass, and place it under the roof."""
        machine = values["bandwidth"] * 1e9, values["operations"] * 1e9
        name, header = self._chosen(values)
        works = {n: pass_work(header, n_parallel=n, depth=DEPTH) for n in sorted({*_COUNTS, values["n_parallel"]})}
        work = works[values["n_parallel"]]
        machines = {"these settings": machine}
        if self._here is not None:
            machines = {"this machine": machine} if _same(self._here, machine) else {**machines, "this machine": self._here}
        texts = "one text" if work.n_tokens == 1 else f"{work.n_tokens} texts"
        points = {f"{texts}: at most {_speed(work.ceiling(*machine))} tokens/s": work.at(work.ceiling(*machine))}
        axes = plot_roofline(machines, points, axes=canvas(3.8, left=0.13, bottom_inches=0.6))
        return View(describe(work, machine, name, self._here), axes, [_table(works, machine)])

    def measure(self) -> None:
        """Measure this machine's bandwidth and arithmetic with the chosen file, in the background."""
        self.start(self._measure)

    def _moved(self, change: Any) -> None:
        self.controls["type"].disabled = self.controls["model"].value == _FILE
        super()._moved(change)

    def _chosen(self, values: Values) -> tuple[str, Header]:
        if values["model"] == _FILE:
            return visible(Path(self._file).name), self.header()
        return f"{values['model']} as {values['type']}", shape_header(*MODELS[values["model"]], values["type"])

    def _measure(self, ticket: Ticket) -> None:
        self.report("measuring: reading memory, and timing llama.cpp's kernels")
        found = predict_speed(self._file)
        if ticket.cancelled:
            return
        if not found.operations_per_second:
            raise LabkitError("llama.cpp's kernels could not be timed: see labkit doctor")
        self._here = found.read_bytes_per_second, found.operations_per_second
        for name, value in zip(("bandwidth", "operations"), self._here, strict=True):
            control = self.controls[name]
            with control.hold_trait_notifications():
                control.value = min(max(value / 1e9, 10**control.min), 10**control.max)
        self.refresh()


def _same(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(math.isclose(a, b, rel_tol=0.01) for a, b in zip(one, other, strict=True))


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _table(works: dict[int, PassWork], machine: tuple[float, float]) -> Table:
    rows = [
        (
            str(count),
            f"{work.n_bytes / 1e9:.2f}",
            f"{work.operations_per_byte:.1f}",
            _speed(work.ceiling(*machine)),
            _LIMITS[work.limit(*machine)],
        )
        for count, work in works.items()
    ]
    columns = ("texts at once", "read (GB)", "operations per byte", "at most (tokens/s, all texts)", "limit")
    return Table(f"With {DEPTH} tokens in each text's cache", columns, rows)
