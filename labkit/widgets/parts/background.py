"""Work behind a control: one thread at most, only the newest request, and nothing left when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Background", "Ticket"]

T = TypeVar("T")


class Ticket:
    """One request's right to go on: it is cancelled when a newer one comes, or nobody wants it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = self._stopped = False
        self._ends: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """Whether to stop."""
        return self._cancelled

    @property
    def stopped(self) -> bool:
        """Whether it ends by somebody's wish, and not because a newer request came."""
        return self._stopped

    def on_cancel(self, end: Callable[[], object]) -> None:
        """Call this when the request is cancelled; at once when it was."""
        with self._lock:
            if not self._cancelled:
                self._ends.append(end)
                return
        end()

    def cancel(self, *, stopped: bool = False) -> None:
        """End the request; safe to call again."""
        with self._lock:
            ends, self._ends, self._cancelled = self._ends, [], True
            self._stopped = self._stopped or stopped
        for end in ends:
            end()


class Background(Generic[T]):
    """Run the newest request in a thread that ends when there is none.

    Parameters
    ----------
    run : callable of (request, Ticket)
        Runs in the thread, and handles its own errors.
    settle_s : float
        How long a request has to be the newest before it runs, so that a slider on its way starts little.
    """

    def __init__(self, run: Callable[[T, Ticket], None], *, settle_s: float = 0.0) -> None:
        self._run, self._settle_s = run, settle_s
        self._condition = threading.Condition()
        self._pending: list[T] = []  # none or one
        self._asked_s = 0.0
        self._ticket: Ticket | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether something runs or waits to."""
        with self._condition:
            return self._thread is not None

    def ask(self, request: T) -> None:
        """Run this instead of what runs or waits."""
        with self._condition:
            if self._closed:
                return
            self._pending, self._asked_s = [request], time.monotonic()
            running = self._ticket
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="labkit-explorer", daemon=True)
                self._thread.start()
            self._condition.notify_all()
        if running is not None:
            running.cancel()

    def cancel(self) -> tuple[bool, bool]:
        """End what runs and forget what waits; returns whether something ran, and whether something waited."""
        with self._condition:
            running, waited = self._ticket, bool(self._pending)
            self._pending = []
            self._condition.notify_all()
        if running is not None:
            running.cancel(stopped=True)
        return running is not None, waited

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing runs or waits; returns whether that came in time."""
        with self._condition:
            return self._condition.wait_for(lambda: self._thread is None, timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """End everything, for good."""
        with self._condition:
            self._closed = True
            thread = self._thread
        self.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._pending and (rest_s := self._asked_s + self._settle_s - time.monotonic()) > 0:
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
