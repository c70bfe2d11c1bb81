"""The loop of `labkit.batch` for requests that come at any time: a new one joins the running ones at the next step.

All computing happens in the model's thread. While no request is there, that thread is free for other calls of the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from labkit.batch.loop import Loop
from labkit.batch.parallel import choose_parallel
from labkit.batch.sequence import Sequence
from labkit.engine.generation import GenerationRequest
from labkit.engine.job import Job
from labkit.engine.results import FinishReason, TokenLogprob
from labkit.engine.stepping import CancelledError
from labkit.errors import LabkitError
from labkit.second_context import kept_threads, second_context, token_batch
from labkit.serve.prefix_cache import KeptSlots, PrefixStore
from labkit.serve.requests import Prepared, unavailable
from labkit.serve.schedule import PROMPT_STEP

if TYPE_CHECKING:
    from labkit.engine.model import Model

N_PARALLEL = 4  # slots if nobody chooses


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """New text of an answer; the last piece has a ``finish_reason`` or an ``error``."""

    text: str
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    error: BaseException | None = None


@dataclasses.dataclass(eq=False)
class Ticket:
    """A request in the server; set ``cancelled`` from any thread to free its slot at the next step."""

    prepared: Prepared
    receive: Callable[[Piece], None]  # called in the server's loop
    index: int = -1
    cancelled: bool = False
    n_generated: int = 0
    n_cached: int = 0
    arrived_s: float = dataclasses.field(default_factory=time.perf_counter)
    started_s: float = 0.0
    first_s: float = 0.0
    ended_s: float = 0.0


class Scheduler(Loop):
    """A context with a slot for each of ``n_parallel`` requests of up to ``n_ctx`` tokens; make it in the model's thread.

    ``deliver`` gets (ticket, piece) pairs after each step, in the model's thread.
    """

    def __init__(self, model: Model, job: Job[Any], n_parallel: int | None, n_ctx: int, cache_bytes: int) -> None:
        choice = choose_parallel(model, job, n_parallel or N_PARALLEL, n_ctx, n_parallel)
        self.n_parallel = n_seq = choice.n_parallel
        # The others generate one token per step, so a step has no more of a prompt than is needed to amortize the weights.
        super().__init__(model, max(model.prompt_step, PROMPT_STEP) + n_seq)
        self.store = PrefixStore(cache_bytes)
        self.deliver: Callable[[list[tuple[Ticket, Piece]]], None] = lambda _: None
        self.tickets: dict[int, Ticket] = {}
        self.is_ending = self._is_closed = False
        self._incoming: deque[Ticket] = deque()
        self._wake = threading.Condition()
        self._numbers = itertools.count()
        self._pieces: list[tuple[Ticket, Piece]] = []
        with contextlib.ExitStack() as stack:
            context = second_context(model, n_ctx=n_ctx * n_seq, n_batch=self.n_batch, n_rows=n_seq, n_seq=n_seq)
            self._ctx = stack.enter_context(context)
            stack.enter_context(kept_threads(self._ctx, max(model.settings.n_threads, model.settings.n_threads_batch)))
            self._batch = stack.enter_context(token_batch(self.n_batch))
            native = model.native
            shares = not (native.has_state or native.has_window)
            self.slots = KeptSlots(self._ctx, n_seq, self.store, shares=shares, can_move=not native.has_state)
            self._native = stack.pop_all()
        model.before_close.append(self._native.close)
        self._thread = threading.Thread(target=self._drive, name="labkit-serve", daemon=True)
        self._thread.start()

    # -- for the server's thread ------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Queue a request."""
        with self._wake:
            self._incoming.append(ticket)
            self._wake.notify()

    @property
    def n_running(self) -> int:
        """Requests that have a slot."""
        return len(self.slots.active)

    def refuse_waiting(self) -> None:
        """From now on, only finish what runs."""
        self.is_ending = True

    def cancel_all(self) -> None:
        """Drop every request at the next step."""
        for ticket in [*self._incoming, *list(self.tickets.values())]:
            ticket.cancelled = True

    def close(self) -> None:
        """Wait for the last request and free the context."""
        with self._wake:
            self.is_ending = self._is_closed = True
            self._wake.notify()
        self._thread.join()
        with contextlib.suppress(LabkitError):  # it was closed, and freed everything before that
            self.model.compute(lambda _: self._native.close())
        with contextlib.suppress(ValueError):
            self.model.before_close.remove(self._native.close)

    # -- the thread that calls the model ----------------------------------------------------------------------------

    def _drive(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._incoming or self.waiting or self._is_closed)
            if not self._incoming and not self.waiting:
                return
            try:
                self.model.compute(self._run)
            except BaseException as error:  # noqa: BLE001, RUF100  # each client gets it
                self._fail(error, also_waiting=True)

    def _run(self, job: Job[Any]) -> None:
        """Compute until no request is left."""
        try:
            with self.model.steps(job, ctx=self._ctx) as steps:
                while self._admit(self.slots):
                    self._step(steps, self.slots, self._batch, job)
                    self._flush()
        except CancelledError:
            self._fail(unavailable("the model's computation was cancelled: send the request again"))
        except BaseException as error:  # noqa: BLE001, RUF100  # each client gets it, and the server goes on
            self._fail(error)
        self._flush()

    def _fail(self, error: BaseException, *, also_waiting: bool = False) -> None:
        """Report an error to all running requests, and begin with empty slots again."""
        for slot, sequence in self.slots.active:
            self.slots.sequences[slot] = None
            sequence.close()
            self._ended(sequence, "", error)
        if also_waiting:
            self._take_incoming()
            while self.waiting:
                self._report(self.tickets[self.waiting.popleft().index], Piece("", error=error))
        else:
            self.slots.clear()
        self._flush()

    def _flush(self) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self.deliver(pieces)

    # -- the loop's steps -------------------------------------------------------------------------------------------

    def _take_incoming(self) -> None:
        while self._incoming:
            ticket = self._incoming.popleft()
            ticket.index = next(self._numbers)
            self.tickets[ticket.index] = ticket
            self.waiting.append(dataclasses.replace(ticket.prepared.request, index=ticket.index))

    def _admit(self, slots: Any) -> bool:
        """Drop cancelled requests, then give free slots to waiting ones."""
        self._take_incoming()
        for slot, sequence in slots.active:
            if self.tickets[sequence.request.index].cancelled:
                slots.leave(slot)
                sequence.close()
                del self.tickets[sequence.request.index]
        for request in list(self.waiting):
            ticket = self.tickets[request.index]
            if ticket.cancelled or self.is_ending:
                self.waiting.remove(request)
                self._report(ticket, Piece("", error=unavailable("this server is shutting down")))
        return super()._admit(slots)

    def _decode(self, steps: Any, batch: Any, n_rows: int) -> None:
        super()._decode(steps, batch, n_rows)
        self.slots.decoded()

    def _begin(self, request: GenerationRequest) -> Sequence | None:
        ticket = self.tickets[request.index]
        ticket.started_s = time.perf_counter()
        try:
            return super()._begin(request)
        except LabkitError as error:  # a grammar that this model cannot follow
            self._report(ticket, Piece("", error=error))
            return None

    def _sampled(self, sequence: Sequence, ctx: Any, row: int) -> None:
        ticket = self.tickets[sequence.request.index]
        ticket.n_generated, ticket.n_cached = len(sequence.tokens), sequence.n_shared
        ticket.first_s = ticket.first_s or time.perf_counter()

    def _said(self, sequence: Sequence, text: str) -> None:
        ticket = self.tickets[sequence.request.index]
        if ticket.prepared.streams:
            self._pieces.append((ticket, Piece(text, sequence.thoughts, tuple(sequence.output.logprobs))))
            sequence.output.logprobs.clear()
            sequence.thoughts = ""

    def _ended(self, sequence: Sequence, text: str, error: BaseException | None) -> None:
        ticket = self.tickets[sequence.request.index]
        whole = text if ticket.prepared.streams else "".join(sequence.pieces)
        reason = None if error is not None else sequence.finish_reason
        self._report(ticket, Piece(whole, sequence.thoughts, tuple(sequence.output.logprobs), reason, error))

    def _report(self, ticket: Ticket, piece: Piece) -> None:
        ticket.ended_s = time.perf_counter()
        self._pieces.append((ticket, piece))
        self.tickets.pop(ticket.index, None)
