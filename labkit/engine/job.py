"""A call on its way to a model's thread, and that thread's large stack."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from labkit.errors import GenerationError

T = TypeVar("T")

# llama.cpp's tokenizers match with C++'s regular expressions, which need about 350 bytes of stack per character of a run
# such as ``=====…``: 25,000 of them end a process whose stack has the usual 8 MiB, 3,000 are enough on Windows and 1,600 in
# a thread on macOS. This size is only reserved: memory is used as the stack grows.
STACK_BYTES = 256 * 1024 * 1024
_lock = threading.Lock()  # the stack size is a setting of the whole process
# On Windows, only a wait with a timeout can be interrupted.
WAIT_S = 0.2


class Job(Generic[T]):
    """A call on its way to the worker: its result or its error, whether it was cancelled, and the items it yields."""

    def __init__(self, function: Callable[[Job[T]], T]) -> None:
        self.function = function
        self.done = threading.Event()
        self.cancelled = False
        self.items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.result: T | None = None
        self.error: BaseException | None = None
        self.owner = threading.get_ident()

    def ask(self) -> None:
        """Signal that the reader is ready for an item; most jobs do not wait for this."""

    def run(self, check: Callable[[], None] = lambda: None) -> None:
        """Call the function in the worker's thread and keep its result or error; ``check`` may raise after it."""
        try:
            try:
                self.result = self.function(self)
            finally:
                check()
        except BaseException as error:  # noqa: BLE001, RUF100  # any error is raised again in the caller's thread
            self.error = error
        finally:
            del self.function  # it may hold the model
            self.done.set()
            self.items.put(END)


END = object()  # the last of a job's items


class LockstepJob(Job[None]):
    """A stream that computes an item only on request, for generators whose state is visible between items."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        super().__init__(lambda job: self._pump(make))
        self._asked = threading.Semaphore(0)

    def ask(self) -> None:
        """Let the generator make its next item."""
        self._asked.release()

    def _pump(self, make: Callable[[], Iterator[Any]]) -> None:
        generator = make()
        while self._may_go_on():
            try:
                item = next(generator)
            except StopIteration:
                return
            if self.cancelled:  # during the step: the item may come from a lost device
                return
            self.items.put(item)

    def _may_go_on(self) -> bool:
        while not self._asked.acquire(timeout=WAIT_S):
            if self.cancelled:
                return False
        return not self.cancelled


def start_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread with a large stack."""
    with _lock:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
        except RuntimeError as error:
            raise GenerationError(
                f"this process cannot start more threads ({error}): close models that you do not need"
            ) from error
        finally:
            threading.stack_size(before)
    return thread
