"""Generate text while a core becomes busy and free again: speed and threads over time."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from labkit.engine import stream_text
from labkit.plots.threads import plot_busy_core
from labkit.system import busy_cores
from labkit.tables import Table
from labkit.units import counted
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.view import View

if TYPE_CHECKING:
    from labkit.engine import Model


_SAMPLE_S = 0.25
_PROMPT, _TOKENS = "Once upon a time", 128  # a text is short, so that its length does not change the speed


@dataclasses.dataclass(frozen=True)
class Sample:
    """About a quarter of a second."""

    end_s: float  # since the first token
    speed: float  # tokens per second
    n_threads: int  # of most of its tokens


@dataclasses.dataclass(frozen=True)
class Expected:
    """What is predicted before a run."""

    n_cores: int
    n_threads: int  # the model's; the most, if it adapts them
    adapts: bool  # uses fewer threads while cores are busy
    free: float  # tokens per second with all cores free
    busy: float  # tokens per second with one core busy

    @property
    def n_threads_busy(self) -> int:
        """Threads that find a free core next to a busy one; at least 1, which then shares its core."""
        return max(1, min(self.n_threads, self.n_cores - 1))


class BusyCore:
    """A run: its samples, and when the core was busy: ``around_s`` seconds free, ``busy_s`` busy, ``around_s`` free."""

    def __init__(self, around_s: float, busy_s: float) -> None:
        self.busy = (around_s, around_s + busy_s)  # planned, until it starts
        self.end_s = 2 * around_s + busy_s
        self.samples: list[Sample] = []
        self._from_s = 0.0
        self._threads: list[int] = []

    def add(self, at_s: float, n_tokens: int, n_threads: int) -> bool:
        """Add a token, or more; return whether a sample is complete. ``n_threads=0`` is the first token after a prompt."""
        if n_threads == 0:
            self._from_s, self._threads = at_s, []
            return False
        self._threads += [n_threads] * n_tokens
        seconds = at_s - self._from_s
        if seconds < _SAMPLE_S or not self._threads:
            return False
        self.samples.append(Sample(at_s, len(self._threads) / seconds, statistics.mode(self._threads)))
        self._from_s, self._threads = at_s, []
        return True

    def move_busy(self, from_s: float) -> None:
        """Note when the core became busy."""
        delay_s = from_s - self.busy[0]
        self.busy = (from_s, self.busy[1] + delay_s)
        self.end_s += delay_s

    def phase(self, at_s: float) -> str:
        """Return ``"before"``, ``"busy"`` or ``"after"``."""
        return "before" if at_s <= self.busy[0] else "busy" if at_s <= self.busy[1] else "after"


def watch(model: Model, ticket: Ticket, around_s: float, busy_s: float) -> Generator[BusyCore]:
    """Generate text, keep a core busy for a while, and yield the run after each sample."""
    run = BusyCore(around_s, busy_s)
    is_busy, zero_s = False, None
    with contextlib.ExitStack() as others:
        for now_s, n_tokens, n_threads in _tokens(model, ticket):
            zero_s = now_s if zero_s is None else zero_s
            at_s = now_s - zero_s
            if not is_busy and at_s >= around_s:
                is_busy = True
                others.enter_context(busy_cores(1, busy_s))
                run.move_busy(time.perf_counter() - zero_s)
            if run.add(at_s, n_tokens, n_threads):
                yield run
            if at_s >= run.end_s:
                return


def _tokens(model: Model, ticket: Ticket) -> Iterator[tuple[float, int, int]]:
    """Generate one text after another; yield the time, and the new tokens and their threads, until cancelled."""
    for seed in itertools.count():
        if ticket.cancelled:
            return
        stream = stream_text(model, _PROMPT, _TOKENS, 1.0, seed=seed)
        ticket.on_cancel(stream.close)
        start_s, n_before = None, 0
        with stream:
            for chunk in stream:
                start_s = time.perf_counter() - chunk.elapsed_s if start_s is None else start_s
                yield start_s + chunk.elapsed_s, chunk.n_generated - n_before, chunk.n_threads
                n_before = chunk.n_generated


def describe_busy(run: BusyCore, expected: Expected) -> str:
    """Describe the prediction, and the speed and threads before, while and after a core is busy."""
    sentences = [f"With one of {expected.n_cores} cores busy, predicted: {_about(expected)}, {expected.busy:.1f} tokens/s."]
    if expected.n_threads_busy < expected.n_threads:
        team = f"A fixed team of {expected.n_threads}"
        sentences.append(f"{team} waits at each barrier for the thread without a core.")
    for phase, name in {"before": "Before", "busy": "Busy", "after": "After"}.items():
        samples = [sample for sample in run.samples if run.phase(sample.end_s) == phase]
        if samples:
            speed = statistics.median(sample.speed for sample in samples)
            threads = statistics.mode(sample.n_threads for sample in samples)
            sentences.append(f"{name}: {counted(threads, 'thread')}, {speed:.1f} tokens/s.")
    if not expected.adapts:
        sentences.append(f"This model keeps n_threads={expected.n_threads}; loaded without n_threads, it would adapt them.")
    return " ".join(sentences)


def _about(expected: Expected) -> str:
    if expected.n_cores == 1:
        return "half the speed of 1 thread, which shares its core"
    return f"about the speed of {counted(expected.n_threads_busy, 'thread')}"


def view_busy(run: BusyCore, expected: Expected, sentence: str) -> View:
    """Return the view of a run, with this sentence before its description."""
    text = describe_busy(run, expected)
    picture = plot_busy_core(
        [sample.end_s for sample in run.samples],
        [sample.speed for sample in run.samples],
        [sample.n_threads for sample in run.samples],
        busy_s=run.busy,
        predicted=(expected.free, expected.busy),
        end_s=run.end_s,
        n_threads=expected.n_threads,
        text=f"Two charts over time: decode speed, and threads. One core is busy from {run.busy[0]:.1f} s on. {text}",
    )
    return View(f"{text} {sentence}", picture, [_table(run)])


def _table(run: BusyCore) -> Table:
    rows = [
        (f"{s.end_s:.2f}", "yes" if run.phase(s.end_s) == "busy" else "no", str(s.n_threads), f"{s.speed:.1f}")
        for s in run.samples
    ]
    return Table("Speed and threads over time", ("time (s)", "one core busy", "threads", "decode (tokens/s)"), rows)
