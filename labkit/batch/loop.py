"""The loop: one call of llama_decode per step for all sequences; one that ends is replaced by a waiting request.

`Loop` is shared by `Batch`, whose prompts are all known, and the server (`labkit.serve`), whose requests come at any time.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, Any

from labkit.batch.records import BatchChunk, BatchItem
from labkit.batch.sequence import Sequence
from labkit.batch.slots import Slots
from labkit.engine.generation import GenerationRequest
from labkit.engine.job import Job
from labkit.engine.native import C
from labkit.engine.stepping import CancelledError, Stepper, ThreadsUsed
from labkit.errors import GenerationError, LabkitError, ModelClosedError
from labkit.progress import Progress
from labkit.second_context import second_context, token_batch
from labkit.units import round_up

if TYPE_CHECKING:
    from labkit.engine.model import Model

_READING = 4.0  # the time to read the weights in a step, as a number of tokens' computing time


class Loop:
    """Steps of several sequences in one context, in the model's thread; a subclass says what happens to their text."""

    def __init__(self, model: Model, n_batch: int) -> None:
        self.model, self.n_batch = model, n_batch
        self.waiting: deque[GenerationRequest] = deque()
        self.n_decodes = self.n_computed = 0
        self._tokenizer = model.native.tokenizer
        self._started_s = time.perf_counter()

    def _sampled(self, sequence: Sequence, ctx: Any, row: int) -> None:
        """Note a new token, the last of ``sequence.tokens`` unless it ended the text; its logits are still there."""

    def _said(self, sequence: Sequence, text: str) -> None:
        """Pass on new text of a sequence that continues."""

    def _ended(self, sequence: Sequence, text: str, error: LabkitError | None) -> None:
        """Pass on the last text of a sequence, or its error."""

    def _begin(self, request: GenerationRequest) -> Sequence | None:
        """Make the sequence of a request; None if that failed and was reported."""
        silent = self._tokenizer.silent_tokens() if request.settings.grammar is not None else ()
        return Sequence(request, self._tokenizer, silent)

    def _admit(self, slots: Slots) -> bool:
        """Give free slots to waiting requests; return whether any sequence is active.

        Prompts that start together are sorted by length: llama.cpp computes equal numbers of tokens of adjacent sequences.
        """
        admitted = [self.waiting.popleft() for _ in range(min(len(slots.free), len(self.waiting)))]
        for request in sorted(admitted, key=lambda each: len(each.prompt)):
            sequence = self._begin(request)
            if sequence is not None:
                slots.sequences[slots.place(request.prompt)] = sequence
        if not self.waiting:
            slots.close_gaps()
        return bool(slots.active)

    def _step(self, steps: Stepper, slots: Slots, batch: Any, job: Job[Any]) -> None:
        """Compute one token or a piece of the prompt of each sequence, and sample the next tokens."""
        rows = self._fill(slots, batch)
        self._decode(steps, batch, len(rows))
        self.n_decodes += 1
        if job.cancelled:  # also after decoding: if a device was lost, the logits are meaningless
            raise CancelledError
        elapsed_s = time.perf_counter() - self._started_s
        for slot, sequence, row in rows:
            try:
                text = sequence.sample(steps.ctx, row, elapsed_s)
            except GenerationError as error:
                self._end(slots, slot, sequence, "", error)
                continue
            self._sampled(sequence, steps.ctx, row)
            if sequence.finish_reason is not None:
                self._end(slots, slot, sequence, text)
            elif text or sequence.thoughts:
                sequence.pieces.append(text)
                self._said(sequence, text)

    def _decode(self, steps: Stepper, batch: Any, n_rows: int) -> None:
        """Compute the batch; thread control only uses steps of single tokens, as the others are mostly prefill."""
        control = steps.control
        if control is None or batch.n_tokens > n_rows:
            steps.decode(batch, max(2, batch.n_tokens))
        else:
            steps.decode(batch, max(2, n_rows), control.batch, _READING + n_rows)

    def _fill(self, slots: Slots, batch: Any) -> list[tuple[int, Sequence, int]]:
        """Put the next tokens into the batch; return which sequences have logits, and in which row."""
        active = [(slot, sequence) for slot, sequence in slots.active if slots.start(slot)]
        n_decoding = sum(not sequence.is_prefilling for _, sequence in active)
        room = self.n_batch - n_decoding  # generating sequences always continue, however long the others' prompts are
        rows, count = [], 0
        for slot, sequence in active:
            was_prefilling = sequence.is_prefilling
            tokens, position = sequence.next_tokens(room if was_prefilling else 1)
            for offset, token in enumerate(tokens):
                batch.token[count], batch.pos[count], batch.logits[count] = token, position + offset, 0
                batch.seq_id[count][0] = slot
                count += 1
            slots.computed(slot, tokens)
            if was_prefilling:
                room -= len(tokens)
                sequence.n_past += len(tokens)
                self.n_computed += len(tokens)
            if tokens and not sequence.is_prefilling:
                batch.logits[count - 1] = 1
                rows.append((slot, sequence, count - 1))
        batch.n_tokens = count
        return rows

    def _end(self, slots: Slots, slot: int, sequence: Sequence, text: str, error: LabkitError | None = None) -> None:
        """Free the slot of a sequence, and pass on its last text."""
        slots.leave(slot)
        text = sequence.finish() if error is not None else text + sequence.finish()
        sequence.pieces.append(text)
        sequence.close()
        self._ended(sequence, text, error)


class Batch(Loop):
    """One run, in the model's thread: at most ``n_parallel`` sequences together, each of at most ``n_cells`` tokens.

    The context is created for the run and freed after it: this takes a fraction of a step's time, and keeping it for a
    possible next batch would hold gigabytes. ``report`` counts tokens that an early end saves as done.
    """

    def __init__(
        self,
        model: Model,
        requests: Many[GenerationRequest],
        n_parallel: int,
        n_cells: int,
        *,
        emit: Callable[[BatchChunk], object],
        report: Progress,
        strict: bool,
        pin: int | None = None,
    ) -> None:
        # not more than the prompts need: the compute buffer grows with it
        n_most = max(n_parallel, sum(len(request.prompt) for request in requests))
        super().__init__(model, max(n_parallel, min(model.settings.n_batch, round_up(n_most, 32))))
        self.n_parallel, self.n_cells = n_parallel, n_cells
        self.waiting.extend(requests)
        self.emit, self.report, self.strict, self.pin = emit, report, strict, pin
        self.items: dict[int, BatchItem] = {}
        self.used = ThreadsUsed()
        self._n_done, self._n_total = 0, sum(request.max_tokens for request in requests)

    def run(self, job: Job[Any]) -> None:
        """Compute everything; a cancelled job keeps the texts so far."""
        with (
            self._slots() as (ctx, slots),
            token_batch(self.n_batch) as batch,
            self.model.steps(job, pin=self.pin, ctx=ctx) as steps,
        ):
            self.used = steps.used_batch
            try:
                while self._admit(slots):
                    self._step(steps, slots, batch, job)
                    self.report(self._n_done, self._n_total)
            except CancelledError:
                self._cancel(slots)
            finally:
                for _, sequence in slots.active:
                    sequence.close()

    @contextlib.contextmanager
    def _slots(self) -> Iterator[tuple[Any, Slots]]:
        model, n_seq = self.model, self.n_parallel
        with second_context(model, n_ctx=self.n_cells * n_seq, n_batch=self.n_batch, n_rows=n_seq, n_seq=n_seq) as ctx:
            native, memory = model.native, C.llama_get_memory(ctx)
            shares = not (native.has_state or native.has_window)
            yield ctx, Slots(memory, n_seq, shares=shares, can_move=not native.has_state)

    def _sampled(self, sequence: Sequence, ctx: Any, row: int) -> None:
        self._n_done += 1

    def _said(self, sequence: Sequence, text: str) -> None:
        self.emit(BatchChunk(sequence.request.index, text, len(sequence.tokens), sequence.now_s))

    def _ended(self, sequence: Sequence, text: str, error: LabkitError | None) -> None:
        if error is not None and self.strict:
            raise type(error)(f"prompts[{sequence.request.index}]: {error}") from error
        self._n_done += sequence.request.max_tokens - len(sequence.tokens) - (sequence.finish_reason == "end")
        self._note(sequence.item(error), text)

    def _note(self, item: BatchItem, text: str) -> None:
        self.items[item.index] = item
        self.emit(BatchChunk(item.index, text, item.n_generated, item.elapsed_s, item.finish_reason, item.error))

    def _cancel(self, slots: Slots) -> None:
        if self.model.is_closed:
            raise ModelClosedError("this model was closed while it generated: load it again with load_model(…)")
        for slot, sequence in slots.active:
            sequence.output.finish_reason = "cancelled"
            self._end(slots, slot, sequence, "")
        while self.waiting:
            request = self.waiting.popleft()
            self._note(BatchItem(request.index, "", n_prompt=len(request.prompt), finish_reason="cancelled"), "")
