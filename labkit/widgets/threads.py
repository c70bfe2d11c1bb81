"""Threads explorer: decode and prefill speed by number of threads, predicted and measured, and next to a busy core."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from labkit.engine import Model
from labkit.plots.picture import canvas
from labkit.plots.threads import plot_threads
from labkit.roofline import predict_speed
from labkit.system import logical_cores_available, measure_read_bandwidth, physical_cores_available
from labkit.tables import Table
from labkit.tuning.threads import ThreadScaling, ThreadSpeed, choose_thread_counts, scaling, stream_threads
from labkit.units import counted
from labkit.widgets.explorer import Values
from labkit.widgets.model_explorer import ModelExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.busy_core import BusyCore, Expected, view_busy, watch
from labkit.widgets.parts.controls import button, slider
from labkit.widgets.parts.view import View

_DRAW_S = 1.0  # between pictures: drawing needs a core for a tenth of a second


@dataclasses.dataclass(frozen=True)
class DecodeTime:
    """The predicted time of a decode step, by how it changes with threads."""

    shared_s: float  # matrices and attention with one thread; threads share them
    alone_s: float  # small operations, which one thread computes while the others wait
    reading_s: float  # reading all bytes at the bandwidth of all cores: no number of threads is faster
    n_cores: int  # physical cores; more threads have to share them

    def tokens_per_second(self, n_threads: int) -> float:
        """Return the predicted speed; with more threads than cores, the most that is possible."""
        return 1 / (max(self.shared_s / min(n_threads, self.n_cores), self.reading_s) + self.alone_s)

    def next_to_busy_core(self, n_threads: int, *, adapts: bool) -> Expected:
        """Return what to expect of a model with this many threads when a core becomes busy."""
        free = self.tokens_per_second(n_threads)
        expected = Expected(self.n_cores, n_threads, adapts, free, free / 2)
        if self.n_cores == 1:
            return expected
        return dataclasses.replace(expected, busy=self.tokens_per_second(expected.n_threads_busy))


def describe(found: ThreadScaling, chosen: int, predicted: DecodeTime | None = None, last: ThreadSpeed | None = None) -> str:
    """Describe the predicted and measured speed with the chosen number of threads, and name the fastest.

    ``last`` is what was measured last, also with other lengths.
    """
    here = [speed for speed in found.speeds if speed.n_threads == chosen]
    own = f"{counted(chosen, 'thread')}: not measured yet. "
    if not here and last is not None:
        own += _last_text(last)
    if here:
        share = here[0].decode_tokens_per_second / found.roofline_tokens_per_second
        own = (
            f"{counted(chosen, 'thread')}: decode {here[0].decode_tokens_per_second:.1f}, prefill "
            f"{here[0].prompt_tokens_per_second:.1f} tokens/s; decode is at {share:.0%} of its ceiling. "
        )
    if predicted is not None:
        at_most = "at most " if chosen > predicted.n_cores else ""
        own += f"Predicted decode: {at_most}{predicted.tokens_per_second(chosen):.1f} tokens/s. "
    if not found.speeds:
        return own.strip()
    best = max(found.speeds, key=lambda speed: speed.decode_tokens_per_second)
    return f"{own}Fastest decode: {counted(best.n_threads, 'thread')}."


def _last_text(last: ThreadSpeed) -> str:
    return f"Last measured: {counted(last.n_threads, 'thread')}, decode {last.decode_tokens_per_second:.1f} tokens/s. "


class ThreadsExplorer(ModelExplorer):
    """Speed by number of threads, predicted and measured live, and the roofline; also next to a busy core."""

    title: ClassVar[str] = "Threads explorer"
    around_s: ClassVar[float] = 2.0  # with all cores free, before and after
    busy_s: ClassVar[float] = 10.0

    def __init__(self, model: Model | Path | str | None = None) -> None:
        self.use_model(model, n_ctx=256)
        self._found: dict[int, ThreadSpeed] = {}
        self._last: ThreadSpeed | None = None  # measured
        self._lengths = (0, 0)  # of what was measured
        self._predicted: dict[int, DecodeTime] = {}  # by tokens in the context
        self._working_with: Values | None = None
        self._busy: tuple[BusyCore, Expected] | None = None
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
                button(f"Keep one core busy for {self.busy_s:.0f} s", self.keep_busy),
                button("Stop", self.stop),
            ],
        )

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Return the prediction and the measurements so far; new lengths discard the measurements."""
        if self._lengths != (values["n_prompt"], values["n_gen"]):
            self._found.clear()
            self._lengths = (values["n_prompt"], values["n_gen"])
        chosen, predicted = values["threads"], self._predicted.get(_depth(values))
        if predicted is None:
            cores = f"{physical_cores_available()} physical and {logical_cores_available()} logical cores"
            measured = "Nothing measured yet. " if self._last is None else _last_text(self._last)
            text = f"{counted(chosen, 'thread')}: no prediction yet. {measured}This process may use {cores}."
            return View(text, None, [self._table((), None)])
        found = scaling(
            self.model(),
            list(self._found.values()),
            n_prompt=values["n_prompt"],
            n_gen=values["n_gen"],
            roofline=1 / predicted.reading_s,
        )
        sentence = describe(found, chosen, predicted, self._last)
        if self._busy is not None:
            return view_busy(*self._busy, sentence)
        speeds = {count: predicted.tokens_per_second(count) for count in sorted({*self.counts, chosen})}
        picture = plot_threads(found, predicted=speeds, chosen=chosen, axes=canvas(3.8, left=0.11, bottom_inches=0.75))
        return View(sentence, picture, [self._table(found.speeds, predicted)])

    def measure(self, counts: list[int] | tuple[int, ...]) -> None:
        """Measure these numbers of threads one after another, in the background."""
        self._start(lambda values, ticket: self._measure(tuple(counts), values, ticket))

    def keep_busy(self) -> None:
        """Keep one core busy for a while, and show the speed and threads of a text that is generated, in the background."""
        self._start(self._keep_busy)

    def _moved(self, change: Any) -> None:
        values, is_threads = self.values, change["owner"] is self.controls["threads"]
        if self._working_with is not None:  # work continues while a slider moves
            if is_threads:
                self._show(self._working_with, Ticket())
        elif is_threads and _depth(values) not in self._predicted:
            self.show(self.compute(values, Ticket()))
            self._start(self._predict)
        else:
            super()._moved(change)

    def _start(self, work: Callable[[Values, Ticket], None]) -> None:
        self.start(lambda ticket: self._work(work, ticket))

    def _work(self, work: Callable[[Values, Ticket], None], ticket: Ticket) -> None:
        self._working_with = values = self.values
        try:
            work(values, ticket)
        finally:
            self._working_with = self._busy = None
        if not ticket.cancelled and self.values != values:
            self.show(self.compute(self.values, ticket))

    def _predict(self, values: Values, ticket: Ticket) -> None:
        """Predict decode's speed from llama.cpp's kernels with one thread, and the bandwidth of all cores."""
        if _depth(values) in self._predicted:
            return
        self.report("predicting: timing llama.cpp's kernels with one thread, and reading memory with all cores")
        path = self.model().model_path
        one = predict_speed(path, n_threads=1, depth=_depth(values), n_prompt=values["n_prompt"])
        bandwidth = measure_read_bandwidth(physical_cores_available(), seconds=0.5)
        alone_s = sum(part.predicted_s for part in one.parts if part.limit == "overhead")
        shared_s = sum(part.predicted_s for part in one.parts) - alone_s
        self._predicted[_depth(values)] = DecodeTime(
            shared_s, alone_s, one.bytes_per_pass / bandwidth, physical_cores_available()
        )
        if not ticket.cancelled:
            self.report("")
            self._show(values, ticket)

    def _measure(self, counts: tuple[int, ...], values: Values, ticket: Ticket) -> None:
        self.report("loading the model", 0, len(counts))
        model = self.model()
        self._predict(values, ticket)
        stream = stream_threads(model, counts, n_prompt=values["n_prompt"], n_gen=values["n_gen"])
        ticket.on_cancel(stream.close)
        self.report(f"measuring {counts[0]} of {', '.join(map(str, counts))} threads", 0, len(counts))
        for done, speed in enumerate(stream, start=1):
            self._found[speed.n_threads] = self._last = speed
            self._show(values, ticket)
            self.report(f"measured {done} of {len(counts)}", done, len(counts))
        self.report("done")

    def _keep_busy(self, values: Values, ticket: Ticket) -> None:
        self.report("loading the model")
        settings = self.model().settings
        self._predict(values, ticket)
        expected = self._predicted[_depth(values)].next_to_busy_core(settings.n_threads, adapts=settings.adapt_threads)
        drawn_s = 0.0
        with contextlib.closing(watch(self.model(), ticket, self.around_s, self.busy_s)) as runs:
            for run in runs:
                last = run.samples[-1]
                phase = run.phase(last.end_s).replace("busy", "one core busy")
                text = f"{phase}: {counted(last.n_threads, 'thread')}, {last.speed:.1f} tokens/s"
                self.report(text, round(last.end_s), round(run.end_s))
                self._busy = run, expected
                if time.monotonic() - drawn_s > _DRAW_S:
                    drawn_s = time.monotonic()
                    self._show(values, ticket)
        if self._busy is not None:
            self._show(values, ticket)
        self.report("done")

    def _show(self, values: Values, ticket: Ticket) -> None:
        """Show the view of these lengths, and of the number of threads that is chosen now."""
        self.show(self.compute({**values, "threads": self.controls["threads"].value}, ticket))

    def _table(self, speeds: tuple[ThreadSpeed, ...], predicted: DecodeTime | None) -> Table:
        measured = {speed.n_threads: speed for speed in speeds}
        rows = [
            (
                str(count),
                "" if predicted is None else f"{predicted.tokens_per_second(count):.1f}",
                f"{measured[count].decode_tokens_per_second:.1f}" if count in measured else "not measured",
                f"{measured[count].prompt_tokens_per_second:.1f}" if count in measured else "not measured",
            )
            for count in (measured or self.counts)
        ]
        columns = ("threads", "predicted decode (tokens/s)", "decode (tokens/s)", "prefill (tokens/s)")
        return Table("Speed by number of threads", columns, rows)


def _depth(values: Values) -> int:
    """Return the tokens in the context, on average while tokens are generated."""
    return int(values["n_prompt"] + values["n_gen"] // 2)
