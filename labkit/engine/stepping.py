"""Consecutive calls of ``llama_decode``, each with the number of threads that is fastest now.

`labkit.thread_control` decides. This module times the steps, ends those that other programs delay, and repeats them with
fewer threads. With a given ``n_threads`` it only calls llama.cpp.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from labkit.engine.native import C
from labkit.errors import GenerationError
from labkit.system import CpuLoad
from labkit.thread_control import SLOW, Phase, ThreadController

if TYPE_CHECKING:
    from labkit.engine.job import Job
    from labkit.engine.native import AbortFlag

_ABORTED = 2  # llama_decode's status after an abort
_DECODE_ERRORS = {
    1: "found no free cells in its cache for the tokens",
    -1: "was given invalid tokens",
    -2: "could not allocate memory for the computation",
    -3: "failed in the middle of the computation",
}
LOOK_S = 0.2  # between samples of the CPU load during a long step
_LONG_S = 1.0  # a step with a longer limit is long
_PATIENCE_S = 1.5  # a step that cores are missing for is ended after this at the latest
_RECENT_S = 5.0  # for this long, another model's choice is a good first guess


class CancelledError(Exception):
    """The abort flag ended a computation."""


def decode(ctx: Any, batch: Any, job: Job[Any]) -> None:
    """Compute a batch of tokens with the context's own threads."""
    if job.cancelled:
        raise CancelledError
    _check(C.llama_decode(ctx, batch))


def _check(status: int) -> None:
    if status == _ABORTED:
        raise CancelledError
    if status != 0:
        reason = _DECODE_ERRORS.get(status, f"returned {status}")
        raise GenerationError(f"llama_decode {reason}: load the model again, with a smaller n_ctx or n_batch if that recurs")


class ThreadsUsed:
    """The tokens computed with each number of threads, in order."""

    def __init__(self) -> None:
        self._runs: list[list[int]] = []

    def add(self, n_threads: int, n_tokens: int) -> None:
        """Add tokens; the list grows only when the number of threads changes."""
        if self._runs and self._runs[-1][0] == n_threads:
            self._runs[-1][1] += n_tokens
        else:
            self._runs.append([n_threads, n_tokens])

    @property
    def last(self) -> int:
        """The number of threads of the last step; 0 if nothing was computed."""
        return self._runs[-1][0] if self._runs else 0

    def summary(self) -> int | tuple[tuple[int, int], ...]:
        """Return the number of threads, or (threads, tokens) pairs if it changed; 0 if nothing was computed."""
        if len(self._runs) <= 1:
            return self._runs[0][0] if self._runs else 0
        return tuple((n_threads, n_tokens) for n_threads, n_tokens in self._runs)


class Watchdog:
    """Set a model's abort flag when a step exceeds its limit, or other programs delay it; its thread starts on demand."""

    def __init__(self, flag: AbortFlag) -> None:
        self._flag = flag
        self._deadline_s = self._look_s = math.inf
        self._is_held_up: Callable[[], bool] = bool
        self._ended = self._stopped = self._idle = False
        self._lock = threading.Lock()  # or a step that has just been disarmed could still be ended, and with it the next
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def arm(self, limit_s: float, is_held_up: Callable[[], bool] | None = None) -> None:
        """Watch a step that begins now, and end it after ``limit_s`` (may be infinite), or when ``is_held_up`` is true.

        It is called every 0.2 s.
        """
        now_s = time.perf_counter()
        with self._lock:
            self._ended = False
            self._look_s = math.inf if is_held_up is None else now_s + LOOK_S
            self._is_held_up = is_held_up or bool
            self._deadline_s = now_s + limit_s
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="labkit-watchdog", daemon=True)
            self._thread.start()
        elif self._idle:
            self._wake.set()

    def disarm(self) -> bool:
        """Stop watching and clear the flag; return whether the step was ended."""
        with self._lock:
            self._deadline_s = self._look_s = math.inf
            if self._ended:
                self._flag.clear()
            return self._ended

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped:
            left_s = self._look()
            if left_s > 0:
                self._idle = math.isinf(left_s)
                self._wake.wait(min(left_s, 1.0))
                self._idle = False
                self._wake.clear()

    def _look(self) -> float:
        """End the step if it is time to, and return the seconds until the next look."""
        with self._lock:
            now_s = time.perf_counter()
            is_late = now_s >= self._deadline_s
            if not is_late and now_s >= self._look_s:
                self._look_s = now_s + LOOK_S
                is_late = self._is_held_up()
            if is_late:
                self._deadline_s = self._look_s = math.inf
                self._ended = True
                self._flag.set()
            return min(self._deadline_s, self._look_s) - now_s


class _Cores:
    """What the models of this process know about the cores."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_at_work = 0
        self._load: CpuLoad | None = None
        self._settled = (0, -math.inf)

    def free(self) -> float | None:
        """Return the cores that are idle or used by this process."""
        if self._load is None:
            self._load = CpuLoad()
        return self._load.free_cores()

    def free_at_once(self) -> float | None:
        """Return the same for a generation that begins; None while another model of this process computes."""
        if self.n_at_work:
            return None
        return self.free() if self._load is None else self._load.free_cores_at_once()

    def settle(self, n_threads: int) -> None:
        """Remember the threads that one model settled on because of other programs, for the next."""
        self._settled = (n_threads, time.monotonic())

    def settled(self) -> int | None:
        """Return the threads that another model settled on recently."""
        n_threads, at_s = self._settled
        return n_threads if time.monotonic() - at_s < _RECENT_S else None


_cores = _Cores()
free_cores = _cores.free


@contextlib.contextmanager
def steps(
    ctx: Any,
    job: Job[Any],
    n_threads: int,
    n_threads_batch: int,
    control: ThreadController | None = None,
    flag: AbortFlag | None = None,
) -> Iterator[Stepper]:
    """Yield a context's `Stepper`, with at most ``n_threads`` for one token and ``n_threads_batch`` for several.

    ``control`` chooses the threads of each step, from what is known about the machine; without it, the numbers are fixed.
    Models of this process that compute at the same time share its cores. ``flag`` ends a step that other programs delay;
    None if such a step cannot be repeated: with a recurrent state, or layers on devices.
    """
    if control is None:
        yield Stepper(ctx, job, n_threads, n_threads_batch)
        return
    watchdog = None if flag is None else Watchdog(flag)
    control.begin(_cores.free_at_once(), _cores.settled())
    with _cores.lock:
        _cores.n_at_work += 1
    try:
        yield Stepper(ctx, job, n_threads, n_threads_batch, control, watchdog)
    finally:
        with _cores.lock:
            _cores.n_at_work -= 1
        if watchdog is not None:
            watchdog.stop()


def set_threads(ctx: Any, n_threads: int, n_threads_batch: int, control: ThreadController | None) -> None:
    """Set a context's threads for a computation that llama-cpp-python runs itself."""
    if control is not None:
        control.begin(_cores.free_at_once(), _cores.settled())
        n_threads, n_threads_batch = control.decode.n_threads, control.prefill.n_threads
    C.llama_set_n_threads(ctx, n_threads, n_threads_batch)


class Stepper:
    """The calls of ``llama_decode`` for one context, in the model's thread; made by `steps`.

    ``used`` has the threads of single tokens, ``used_batch`` those of several at a time.
    """

    def __init__(
        self,
        ctx: Any,
        job: Job[Any],
        n_threads: int,
        n_threads_batch: int,
        control: ThreadController | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.ctx, self.job = ctx, job
        self.control, self._watchdog = control, watchdog
        self.used, self.used_batch = ThreadsUsed(), ThreadsUsed()
        self._pinned = n_threads, n_threads_batch
        self._set = (0, 0)

    def decode(self, batch: Any, n_tokens: int, phase: Phase | None = None, work: float = 0.0) -> None:
        """Compute a batch of ``n_tokens``; ``work`` is in the phase's units, tokens by default.

        ``phase`` chooses the threads and records the time: decode or prefill by default.
        """
        one = n_tokens == 1
        if self.control is None:
            n_threads = self._pinned[0 if one else 1]
            self._set_threads(*self._pinned)
            decode(self.ctx, batch, self.job)
        else:
            phase = phase or (self.control.decode if one else self.control.prefill)
            n_threads = self._adapt(batch, self.control, phase, work or n_tokens)
        (self.used if one else self.used_batch).add(n_threads, n_tokens)

    def _set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        if self._set != (n_threads, n_threads_batch):
            self._set = n_threads, n_threads_batch
            C.llama_set_n_threads(self.ctx, n_threads, n_threads_batch)

    def _adapt(self, batch: Any, control: ThreadController, phase: Phase, work: float) -> int:
        """Compute a step, repeat it with fewer threads if it was ended at its limit, and return the threads."""
        while True:
            chosen = phase.choose()
            n_threads = min(chosen, max(1, phase.n_max // max(1, _cores.n_at_work)))
            self._set_threads(n_threads, n_threads)
            if self.job.cancelled:
                raise CancelledError
            started_s = time.perf_counter()
            # Cores shared with another model at work say nothing about the machine.
            status, ended = self._call(batch, work, phase if n_threads == chosen else None)
            seconds = time.perf_counter() - started_s
            again = ended and status == _ABORTED and not self.job.cancelled
            if not again:
                _check(status)
            if n_threads == chosen and (again or not phase.pass_over(work, seconds)):
                before = phase.n_threads
                control.record(phase, work, seconds, free=_cores.free(), ended=again)
                if phase.n_threads < before:
                    _cores.settle(phase.n_threads)
            if not again:
                return n_threads
            if batch.pos:  # a batch without positions is computed in one part
                self._remove(batch)

    def _remove(self, batch: Any) -> None:
        """Remove a batch that is to be repeated: llama.cpp computes it in parts, and removes only the ended part."""
        starts: dict[int, int] = {}
        for index in range(batch.n_tokens):
            starts.setdefault(batch.seq_id[index][0], batch.pos[index])
        for sequence, position in starts.items():
            C.llama_memory_seq_rm(C.llama_get_memory(self.ctx), sequence, position, -1)

    def _call(self, batch: Any, work: float, phase: Phase | None) -> tuple[int, bool]:
        """Call llama_decode, watched if it is a phase's; return its status, and whether the watchdog ended it."""
        if self._watchdog is None or phase is None or phase.choose() == 1:
            return C.llama_decode(self.ctx, batch), False
        limit_s = phase.limit_s(work)
        is_long = limit_s > _LONG_S  # worth sampling the CPU load during the step
        self._watchdog.arm(limit_s, held_up(phase, limit_s, _cores.free) if is_long else None)
        status = C.llama_decode(self.ctx, batch)
        return status, self._watchdog.disarm()


def held_up(phase: Phase, limit_s: float, free: Callable[[], float | None]) -> Callable[[], bool]:
    """Return a function to call every `LOOK_S` of a step: whether cores have been missing for too long by now.

    A program that runs in bursts takes a core for less, and ending the step would lose more than it delays.
    """
    usual_s = limit_s / SLOW if math.isfinite(limit_s) else 0.0
    patience_s = min(max(2 * LOOK_S, 2 * usual_s), _PATIENCE_S)
    missing_s = 0.0

    def is_held_up() -> bool:
        nonlocal missing_s
        missing_s = missing_s + LOOK_S if phase.is_short_of_cores(free()) else 0.0
        return missing_s > patience_s - LOOK_S / 2

    return is_held_up
