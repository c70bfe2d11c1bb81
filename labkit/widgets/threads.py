"""Threads explorer: decode and prefill speed by number of threads, measured here, and decode's ceiling."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from labkit.engine import Model
from labkit.plots.picture import canvas
from labkit.plots.threads import plot_threads
from labkit.roofline import predict_speed
from labkit.system import logical_cores_available, physical_cores_available
from labkit.tables import Table
from labkit.tuning.threads import ThreadScaling, ThreadSpeed, choose_thread_counts, scaling, stream_threads
from labkit.widgets.explorer import Explorer, Values, button, slider
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.loaded_model import Loaded
from labkit.widgets.parts.view import View

__all__ = ["ThreadsExplorer", "describe"]


def describe(found: ThreadScaling, chosen: int) -> str:
    """Describe the speed with the chosen number of threads, and name the fastest."""
    best = max(found.speeds, key=lambda speed: speed.decode_tokens_per_second)
    here = [speed for speed in found.speeds if speed.n_threads == chosen]
    own = f"{chosen} thread{'s' if chosen > 1 else ''}: not measured yet. "
    if here:
        share = here[0].decode_tokens_per_second / found.roofline_tokens_per_second
        own = (
            f"{chosen} thread{'s' if chosen > 1 else ''}: decode {here[0].decode_tokens_per_second:.1f}, prefill "
            f"{here[0].prompt_tokens_per_second:.1f} tokens/s; decode is at {share:.0%} of its ceiling. "
        )
    return f"{own}Fastest decode: {best.n_threads} thread{'s' if best.n_threads > 1 else ''}."


class ThreadsExplorer(Explorer):
    """Speed by number of threads, measured live, and the roofline.

    Parameters
    ----------
    model : Model, Path or str, optional
        A loaded model, or a file or name to load.
    """

    title: ClassVar[str] = "Threads explorer"

    def __init__(self, model: Model | Path | str | None = None) -> None:
        self._loaded = Loaded(model, n_ctx=256)
        self._found: dict[int, ThreadSpeed] = {}
        self._measured_with: tuple[int, int] | None = None
        self._roofline: dict[int, float] = {}
        self._is_measuring = False
        self.counts = choose_thread_counts(physical_cores_available(), logical_cores_available())
        super().__init__(
            {
                "threads": slider("Threads", physical_cores_available(), 1, max(self.counts), 1),
                "n_prompt": slider("Prompt (tokens)", 64, 16, 512, 16, continuous_update=False),
                "n_gen": slider("Max tokens", 16, 4, 128, 4, continuous_update=False),
            },
            actions=[
                button("Measure this many threads", lambda: self.measure([self.controls["threads"].value])),
                button("Measure all", lambda: self.measure(self.counts)),
                button("Stop", self.stop),
            ],
        )

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Return the measurements so far; new lengths discard them."""
        if self._measured_with not in (None, (values["n_prompt"], values["n_gen"])):
            self._found.clear()
            self._measured_with = None
        if not self._found:
            cores = f"{physical_cores_available()} physical and {logical_cores_available()} logical cores"
            return View(f"Nothing measured yet. This process may use {cores}.", None, [self._table(())])
        found = self._scaling(values)
        return View(
            describe(found, values["threads"]),
            plot_threads(found, axes=canvas(3.8, left=0.11, bottom_inches=0.75)),
            [self._table(found.speeds)],
        )

    def measure(self, counts: list[int] | tuple[int, ...]) -> None:
        """Measure these numbers of threads one after another, in the background."""
        self.start(lambda ticket: self._measure(tuple(counts), self.values, ticket))

    def close(self) -> None:
        """Close the explorer, and the model if it loaded one."""
        super().close()
        self._loaded.close()

    def _moved(self, change: object) -> None:
        if not self._is_measuring:  # a measurement continues while a slider moves
            super()._moved(change)

    def _measure(self, counts: tuple[int, ...], values: Values, ticket: Ticket) -> None:
        self._is_measuring = True
        try:
            self._measure_each(counts, values, ticket)
        finally:
            self._is_measuring = False
        if not ticket.cancelled and self.values != values:
            self.show(self.compute(self.values, ticket))

    def _measure_each(self, counts: tuple[int, ...], values: Values, ticket: Ticket) -> None:
        self.report("loading the model, measuring the memory bandwidth", 0, len(counts))
        model = self._loaded.model()
        self._ceiling(values)
        lengths = (values["n_prompt"], values["n_gen"])
        if self._measured_with != lengths:
            self._found.clear()
            self._measured_with = lengths
        stream = stream_threads(model, counts, n_prompt=lengths[0], n_gen=lengths[1])
        ticket.on_cancel(stream.close)
        self.report(f"measuring {counts[0]} of {', '.join(map(str, counts))} threads", 0, len(counts))
        for done, speed in enumerate(stream, start=1):
            self._found[speed.n_threads] = speed
            self.show(self.compute({**values, "threads": self.controls["threads"].value}, ticket))
            self.report(f"measured {done} of {len(counts)}", done, len(counts))
        self.report("done")

    def _ceiling(self, values: Values) -> float:
        """Return decode's roofline at the measured depth; the bandwidth is measured once per depth, for one second."""
        depth = values["n_prompt"] + values["n_gen"] // 2
        if depth not in self._roofline:
            self._roofline[depth] = predict_speed(
                self._loaded.model().model_path, depth=depth, n_prompt=values["n_prompt"]
            ).roofline_tokens_per_second
        return self._roofline[depth]

    def _scaling(self, values: Values) -> ThreadScaling:
        return scaling(
            self._loaded.model(),
            list(self._found.values()),
            n_prompt=values["n_prompt"],
            n_gen=values["n_gen"],
            roofline=self._ceiling(values),
        )

    def _table(self, speeds: tuple[ThreadSpeed, ...]) -> Table:
        rows = [
            (str(s.n_threads), f"{s.decode_tokens_per_second:.1f}", f"{s.prompt_tokens_per_second:.1f}") for s in speeds
        ] or [(str(count), "not measured", "not measured") for count in self.counts]
        return Table("Speed by number of threads", ("threads", "decode (tokens/s)", "prefill (tokens/s)"), rows)
