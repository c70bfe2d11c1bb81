"""Background work of an explorer: at most one thread, which runs the newest request and then ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ticket:
    """The cancellation token of a request: cancelled when a newer request arrives, or on Stop and close."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = self._stopped = False
        self._ends: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """Whether the request is cancelled."""
        return self._cancelled

    @property
    def stopped(self) -> bool:
        """Whether it was cancelled by Stop or close, not by a newer request."""
        return self._stopped

    def on_cancel(self, end: Callable[[], object]) -> None:
        """Call ``end`` when the request is cancelled; at once if it already is."""
        with self._lock:
            if not self._cancelled:
                self._ends.append(end)
                return
        end()

    def cancel(self, *, stopped: bool = False) -> None:
        """Cancel the request; safe to call again."""
        with self._lock:
            ends, self._ends, self._cancelled = self._ends, [], True
            self._stopped = self._stopped or stopped
        for end in ends:
            end()


class Background(Generic[T]):
    """Run the newest request in a thread, which ends when no request is left; ``run`` handles its own errors.

    A request waits ``settle_s`` seconds for a newer one to replace it, so that a moving slider starts little work.
    """

    def __init__(self, run: Callable[[T, Ticket], None], *, settle_s: float = 0.0) -> None:
        self._run, self._settle_s = run, settle_s
        self._condition = threading.Condition()
        self._pending: list[T] = []  # none or one
        self._submitted_s = 0.0
        self._ticket: Ticket | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, request: T) -> None:
        """Run this request, and cancel those that run or wait."""
        with self._condition:
            if self._closed:
                return
            self._pending, self._submitted_s = [request], time.monotonic()
            running = self._ticket
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="labkit-explorer", daemon=True)
                self._thread.start()
            self._condition.notify_all()
        if running is not None:
            running.cancel()

    def cancel(self) -> tuple[bool, bool]:
        """Cancel running and waiting requests; return whether one ran, and whether one waited."""
        with self._condition:
            running, waited = self._ticket, bool(self._pending)
            self._pending = []
            self._condition.notify_all()
        if running is not None:
            running.cancel(stopped=True)
        return running is not None, waited

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until no request runs or waits; return False on a timeout."""
        with self._condition:
            return self._condition.wait_for(lambda: self._thread is None, timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Cancel everything, and accept no more requests."""
        with self._condition:
            self._closed = True
            thread = self._thread
        self.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._pending and (rest_s := self._submitted_s + self._settle_s - time.monotonic()) > 0:
                    self._condition.wait(rest_s)
                if not self._pending:
                    self._thread = None
                    self._condition.notify_all()
                    return
                request = self._pending.pop()
                ticket = self._ticket = Ticket()
            try:
                self._run(request, ticket)
            finally:
                with self._condition:
                    self._ticket = None
