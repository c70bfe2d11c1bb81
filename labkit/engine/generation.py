"""The generation loop.

One token costs one ``llama_decode``, one pass of the sampler chain in C and one ``llama_token_to_piece``. Nothing is
computed twice and nothing grows with the length: the batch is reused, text is decoded incrementally, and stop
sequences are looked for in the new text only.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from labkit.engine.chat_prompt import Tokenizer
from labkit.engine.detokenizer import TextAssembler
from labkit.engine.native import C
from labkit.engine.results import FinishReason, GenerationReport, TextChunk
from labkit.engine.sampler import Sampler
from labkit.engine.sampling_settings import SamplingSettings
from labkit.engine.stepping import CancelledError, Stepper

if TYPE_CHECKING:
    from typing_extensions import Self

    from labkit.engine.worker import Job

__all__ = ["Generation", "Stream", "TextStream", "prefill"]

T = TypeVar("T")


def prefill(steps: Stepper, prompt: list[int], step: int, n_reused: int = 0) -> None:
    """Compute a prompt's tokens from number ``n_reused`` on, ``step`` at a time; raises as `Stepper.decode`."""
    tokens = (C.llama_token * len(prompt))(*prompt)
    for start in range(n_reused, len(prompt), step):
        count = min(step, len(prompt) - start)
        address = ctypes.byref(tokens, start * ctypes.sizeof(C.llama_token))
        steps.decode(C.llama_batch_get_one(ctypes.cast(address, ctypes.POINTER(C.llama_token)), count), count)


class Generation:
    """One run of the loop, in the worker's thread.

    Parameters
    ----------
    steps : Stepper
        The calls of llama_decode.
    tokenizer : Tokenizer
    step : int
        Tokens of a prompt that one call computes.
    prompt : list of int
        At least one token.
    max_tokens : int or None
    settings : SamplingSettings
    """

    def __init__(
        self,
        steps: Stepper,
        tokenizer: Tokenizer,
        step: int,
        prompt: list[int],
        max_tokens: int,
        settings: SamplingSettings,
    ) -> None:
        self.steps, self.ctx, self.tokenizer, self.step = steps, steps.ctx, tokenizer, step
        self.prompt, self.max_tokens, self.settings = prompt, max_tokens, settings
        self.text = TextAssembler(settings.stop)
        self.tokens: list[int] = []
        self.n_reused = self.n_decoded = 0
        self.seed = 0
        self.started_s = self.first_s = self.now_s = time.perf_counter()
        self.finish_reason: FinishReason = "length"

    def run(self, job: Job[Any], emit: Callable[[TextChunk], None], n_reused: int = 0) -> GenerationReport:
        """Process the prompt from token ``n_reused`` on, then generate; ``emit`` gets each piece of text."""
        self.n_reused = n_reused
        self.started_s = self.first_s = self.now_s = time.perf_counter()
        try:
            silent = self.tokenizer.silent_tokens() if self.settings.grammar is not None else ()
            with Sampler(self.tokenizer.vocab, self.settings, self.prompt, silent=silent) as sampler:
                self.seed = sampler.seed
                prefill(self.steps, self.prompt, self.step, self.n_reused)
                self._loop(job, sampler, emit)
        except CancelledError:
            self.finish_reason = "cancelled"
        emit(self._chunk(self.text.finish(), self.finish_reason))
        return self.report()

    def _loop(self, job: Job[Any], sampler: Sampler, emit: Callable[[TextChunk], None]) -> None:
        slot = (C.llama_token * 1)()
        batch = C.llama_batch_get_one(slot, 1)
        while self._take(sampler.sample(self.ctx), job, emit):
            slot[0] = self.tokens[-1]
            self.steps.decode(batch, 1)
            self.n_decoded += 1

    def _take(self, token: int, job: Job[Any], emit: Callable[[TextChunk], None]) -> bool:
        """Add a token that was chosen to the text; returns whether another one is wanted."""
        if job.cancelled:  # meanwhile: a device that was lost leaves logits that mean nothing
            raise CancelledError
        self.now_s = time.perf_counter()
        if not self.tokens:
            self.first_s = self.now_s
        if self.tokenizer.is_end(token):
            self.finish_reason = "end"
            return False
        self.tokens.append(token)
        text = self.text.add(self.tokenizer.piece(token))
        if text:
            emit(self._chunk(text))
        if self.text.stopped:
            self.finish_reason = "stop"
            return False
        return len(self.tokens) < self.max_tokens

    def _chunk(self, text: str, finish_reason: FinishReason | None = None) -> TextChunk:
        decoding = self.now_s - self.first_s
        return TextChunk(
            text,
            len(self.prompt),
            len(self.tokens),
            self.first_s - self.started_s,
            self.now_s - self.started_s,
            (len(self.tokens) - 1) / decoding if decoding > 0 else 0.0,
            finish_reason,
        )

    def report(self) -> GenerationReport:
        """Return the figures of this run."""
        return GenerationReport(
            n_prompt=len(self.prompt),
            n_reused=self.n_reused,
            n_generated=len(self.tokens),
            prefill_s=self.first_s - self.started_s,
            decode_s=self.now_s - self.first_s,
            finish_reason=self.finish_reason,
            seed=self.seed,
            token_ids=tuple(self.tokens),
            n_threads=self.steps.used.summary(),
            n_threads_batch=self.steps.used_batch.summary(),
        )


class Stream(Iterator[T]):
    """What is generated, while it is: iterate, and ``close()`` (or leave a ``with``) to end it early.

    The model works ahead of the reader, so a slow reader does not slow it down; what is closed early is cancelled.
    Any thread may read or close it.
    """

    def __init__(self, chunks: Iterator[T], cancel: Callable[[], object]) -> None:
        self._chunks, self._cancel = chunks, cancel
        self._lock = threading.Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._chunks)

    def close(self) -> None:
        """End the generation, if it still runs."""
        self._cancel()
        if self._lock.acquire(blocking=False):  # or else another thread waits for a chunk, and will see the end
            try:
                self._chunks.close()  # type: ignore[attr-defined]  # a generator
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TextStream(Stream[TextChunk]):
    """The chunks of a text while it is generated: iterate, and ``close()`` (or leave a ``with``) to end it early."""
