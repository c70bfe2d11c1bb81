"""One thread per model: every native call is a job for it, so two calls never overlap.

llama.cpp's context is not thread-safe, and a Ctrl-C during a C call is delayed until the call ends. Here the caller
only waits, which Python can interrupt at any time; the thread itself never gets a KeyboardInterrupt, so the model's
state stays valid.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from labkit.engine.job import END, WAIT_S, Job, LockstepJob, start_thread
from labkit.engine.native import AbortFlag, EngineLog, claim_log, release_threads
from labkit.errors import GenerationError, Interrupted, LabkitError, ModelClosedError

if TYPE_CHECKING:
    from labkit.devices.borrow import ModelDevices


T = TypeVar("T")

# Maximum wait for the end of a cancelled computation: in its caller, and in close().
LEAVE_S = 0.8
PATIENCE_S = 5.0
INTERRUPTED = "interrupted: the computation was ended, and the model can be used as before"
_LOST_ADVICE = "close() it, start the device again and load the model again"


class Worker:
    """The thread that owns one model's native state.

    ``lost`` is the reason why the model can no longer compute: a device with a part of it was lost.
    """

    def __init__(self, log: EngineLog, devices: ModelDevices | None = None) -> None:
        self.flag = AbortFlag()
        self.log = log
        self.lost: str | None = None
        self._devices = devices
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._current: Job[Any] | None = None
        self._last: Job[None] | None = None
        self._thread = start_thread(self._serve, "labkit-model")

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the worker's own."""
        return threading.current_thread() is self._thread

    @property
    def current(self) -> Job[Any]:
        """The running job; use it in the worker's own thread only."""
        if self._current is None:
            raise LabkitError("no job runs in this model's thread: please report this")
        return self._current

    @property
    def is_cancelled(self) -> bool:
        """Whether the running job was cancelled."""
        return self._current is not None and self._current.cancelled

    @property
    def is_busy(self) -> bool:
        """Whether a job is running."""
        return self._current is not None

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run ``function(*args, **kwargs)`` in the worker's thread and return its result; Ctrl-C ends it."""
        if self.is_here:
            return function(*args, **kwargs)
        return self.run(Job(lambda _: function(*args, **kwargs)))

    def run(self, job: Job[T]) -> T:
        """Queue a job and wait for its result; an interrupt cancels it, waits for its end and is raised again."""
        try:
            self._submit(job)
            while not job.done.wait(WAIT_S):
                self._refuse_to_wait(job)
        except KeyboardInterrupt:
            self._leave(job)
            raise Interrupted(INTERRUPTED) from None
        except BaseException:
            self._leave(job)
            raise
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]  # done without an error

    def iterate(self, job: Job[Any]) -> Iterator[Any]:
        """Queue a job and yield its items until it ends; leaving early cancels it."""
        try:
            self._submit(job)
            job.ask()
            while (item := self._get(job)) is not END:
                yield item
                job.ask()
        finally:
            if not job.done.is_set():
                self._leave(job)
        if job.error is not None:
            raise job.error

    def _submit(self, job: Job[Any]) -> None:
        with self._lock:
            if self._last is not None:
                _refuse(job)
            current = self._current
            if isinstance(current, LockstepJob) and current.owner == threading.get_ident() and not current.done.is_set():
                raise GenerationError(
                    "a stream of this model is still open in this thread: read it to its end or close() it before the next "
                    "call"
                )
            self._jobs.put(job)

    def _get(self, job: Job[Any]) -> Any:
        while True:
            try:
                return job.items.get(timeout=WAIT_S)
            except queue.Empty:
                self._refuse_to_wait(job)
                if self.pid != os.getpid():  # a forked child has no thread that adds items
                    raise ModelClosedError(
                        "this stream was started in another process, and a forked child cannot continue it: start it here, "
                        "with a model that is loaded here"
                    ) from None

    def _refuse_to_wait(self, job: Job[Any]) -> None:
        """Raise in the caller of a cancelled job if a device does not answer: its computation cannot be ended from here."""
        device = self._devices.waited_for(LEAVE_S) if self._devices is not None and job.cancelled else None
        if device is not None:
            self.refuse_if_lost()
            raise GenerationError(
                f"this computation was cancelled, but the device at {device} has not answered yet: this model can be used "
                "again when it does, and close() frees it at once"
            )

    def lose(self, message: str) -> None:
        """End the running computation, from any thread, and refuse all later jobs except freeing the model."""
        with self._lock:
            if self.lost is None:
                self.lost = message
            if self._current is not None and self._current is not self._last:
                self._current.cancelled = True
                self.flag.set()

    def refuse_if_lost(self) -> None:
        """Raise if a device with a part of the model was lost."""
        if self.lost is not None:
            raise GenerationError(f"{self.lost}, and this model's layers with it: {_LOST_ADVICE}")

    def _leave(self, job: Job[Any]) -> None:
        """Cancel a job, and wait for its end if it is running."""
        if self.pid != os.getpid():
            return
        runs = self.cancel(job) and job is self._current
        if runs and not self.is_here:  # the garbage collector may close a stream in any thread
            _wait_through_interrupts(job.done, LEAVE_S)

    def cancel(self, job: Job[Any] | None = None) -> bool:
        """Cancel a job, by default the running one; return whether there was one."""
        if self.pid != os.getpid():
            return False
        with self._lock:
            job = job or self._current
            if job is None or job.done.is_set():
                return False
            job.cancelled = True
            if job is self._current:
                self.flag.set()
            return True

    def stop(self, last: Callable[[], None]) -> None:
        """Cancel everything, run ``last`` in the thread and end it; return when it has ended.

        Return at once if called in that thread, or in one that the computation needs: by the garbage collector, or by a
        callback during a computation.
        """
        job: Job[None] = Job(lambda _: last())
        with self._lock:
            self._last = job
            self._jobs.put(job)
            self._jobs.put(None)
        self.cancel()
        if self.is_here or (self._devices is not None and self._devices.serves_here):
            return
        if self._devices is not None and not _wait_through_interrupts(job.done, LEAVE_S):
            self._devices.abandon(LEAVE_S / 2)
        if not _wait_through_interrupts(job.done, PATIENCE_S):
            return
        self._thread.join(PATIENCE_S)
        if job.error is not None:
            raise job.error

    def _serve(self) -> None:
        with self.log.claimed():
            while (job := self._jobs.get()) is not None:
                self._run(job)
                del job
                release_threads()

    def _run(self, job: Job[Any]) -> None:
        if self._last is not None and job is not self._last:
            job.function = _refuse
        elif self.lost is not None and job is not self._last:
            job.function = _nothing  # `refuse_if_lost` explains why
        elif job.cancelled:  # its caller left before it began
            job.function = _nothing
        with self._lock:
            self._current = job
            self.flag.clear()
            if job.cancelled:
                self.flag.set()
        claim_log()
        job.run(self.refuse_if_lost if job is not self._last else _accept)
        with self._lock:
            self._current = None
            self.flag.clear()


def _refuse(_: Job[Any]) -> None:
    raise ModelClosedError("this model was closed: load it again with load_model(…)")


def _accept() -> None:
    return None


def _nothing(_: Job[Any]) -> None:
    return None


def _wait_through_interrupts(done: threading.Event, limit_s: float) -> bool:
    """Wait for a cancelled job's end, and return whether it ended in time; an interrupt while waiting is raised afterwards.

    Computations end within milliseconds. One huge matrix product may take longer, and a grammar with too many readings of
    one token keeps llama.cpp busy for hours and cannot be ended: the caller leaves both.
    """
    deadline = time.monotonic() + limit_s
    interrupt: KeyboardInterrupt | None = None
    while not done.is_set() and (left := deadline - time.monotonic()) > 0:
        try:
            done.wait(min(WAIT_S, left))
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
    return done.is_set()
