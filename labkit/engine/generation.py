"""The generation loop.

One token costs one ``llama_decode``, one pass of the sampler chain in C and one ``llama_token_to_piece``. Nothing is
computed twice and nothing grows with the length: the batch is reused, text is decoded incrementally, and only the
new text is searched for stop sequences.
"""

from __future__ import annotations

import ctypes
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from labkit.engine.detokenizer import TextAssembler
from labkit.engine.logprobs import token_logprob
from labkit.engine.native import C
from labkit.engine.results import FinishReason, GenerationReport, Kind, TextChunk, TokenLogprob
from labkit.engine.sampler import Sampler
from labkit.engine.sampling_settings import SamplingSettings
from labkit.engine.stepping import CancelledError, Stepper
from labkit.engine.tokenizer import Tokenizer
from labkit.engine.worker import INTERRUPTED
from labkit.errors import Interrupted

if TYPE_CHECKING:
    from typing_extensions import Self

    from labkit.engine.job import Job

T = TypeVar("T")


def prefill(steps: Stepper, prompt: list[int], step: int, n_reused: int = 0) -> None:
    """Compute a prompt's tokens from index ``n_reused`` on, ``step`` at a time; raises like `Stepper.decode`."""
    tokens = (C.llama_token * len(prompt))(*prompt)
    for start in range(n_reused, len(prompt), step):
        count = min(step, len(prompt) - start)
        address = ctypes.byref(tokens, start * ctypes.sizeof(C.llama_token))
        steps.decode(C.llama_batch_get_one(ctypes.cast(address, ctypes.POINTER(C.llama_token)), count), count)


class Splitter:
    """Divide a text into parts: here all is answer; `labkit.chat.thinking.Thinking` finds reasoning, and ends it."""

    reasoning = ""  # what was found so far
    read_calls: Callable[[Sequence[int]], tuple[dict[str, Any], ...]] | None = None  # of tools, from an answer's tokens

    def choose(self, sampler: Sampler, ctx: Any, row: int) -> int:
        """Return the next token."""
        return sampler.sample(ctx, row)

    def goes_on(self, token: int) -> bool:
        """Return whether the text goes on after a token that ends texts."""
        return False

    def mark(self, token: int) -> str:
        """Return a character to put before a token's text."""
        return ""

    def split(self, text: str, *, last: bool = False) -> list[tuple[Kind, str]]:
        """Return the parts of a new text."""
        return [("answer", text)] if text else []


class Output:
    """Generated tokens, their text, and why generation ended: the last two steps of every loop, "append" and "stop?"."""

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int, text: TextAssembler, n_logprobs: int | None, splitter: Splitter
    ) -> None:
        self._tokenizer, self._max_tokens, self._text, self._n_logprobs = tokenizer, max_tokens, text, n_logprobs
        self.splitter = splitter
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None

    def append(self, token: int, ctx: Any, row: int = -1) -> list[tuple[Kind, str]]:
        """Add the token chosen from a row of logits; return parts that are now certain; set ``finish_reason`` at the end."""
        if self._tokenizer.is_end(token) and not self.splitter.goes_on(token):
            self.finish_reason = "end"
            return []
        self.tokens.append(token)
        if self._n_logprobs is not None:
            self.logprobs.append(token_logprob(ctx, row, self._tokenizer, token, self._n_logprobs))
        text = self._text.add(self._tokenizer.piece(token), self.splitter.mark(token))
        if self._text.stopped:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self._max_tokens:
            self.finish_reason = "length"
        return self.splitter.split(text)

    def finish(self) -> list[tuple[Kind, str]]:
        """Return the parts that were held back."""
        return self.splitter.split(self._text.finish(), last=True)


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """A prompt that fits: its tokens, at most ``max_tokens`` new ones, how to sample, and what splits a chat's answer."""

    prompt: list[int]
    max_tokens: int
    settings: SamplingSettings
    splitter: Splitter = dataclasses.field(default_factory=Splitter)
    index: int = 0  # among the prompts of a batch, or a server's requests
    is_chat: bool = False  # its prompt may begin with an earlier answer, which is in the cache as it was generated


class Generation:
    """One run of the loop, in the worker's thread; each call computes ``step`` tokens of the prompt."""

    make_sampler: Callable[..., Sampler] = Sampler  # a benchmark replaces these two with timed ones
    make_text: Callable[..., TextAssembler] = TextAssembler

    def __init__(self, steps: Stepper, tokenizer: Tokenizer, step: int, request: GenerationRequest) -> None:
        self.steps, self.tokenizer, self.step = steps, tokenizer, step
        self.prompt, self.settings = request.prompt, request.settings
        self.text = self.make_text(self.settings.stop)
        self.output = Output(tokenizer, request.max_tokens, self.text, self.settings.logprobs, request.splitter)
        self.sampler: Sampler | None = None
        self.texts: list[str] = []
        self.n_reused = self.n_decoded = 0
        self.started_s = self.first_s = self.now_s = time.perf_counter()

    def run(self, job: Job[Any], emit: Callable[[TextChunk], None], n_reused: int = 0) -> GenerationReport:
        """Process the prompt from token ``n_reused`` on, then generate; ``emit`` gets each piece of text."""
        ctx, output = self.steps.ctx, self.output
        slot = (C.llama_token * 1)()
        batch = C.llama_batch_get_one(slot, 1)  # refers to the slot, so it serves every token
        self.n_reused = n_reused
        self.started_s = self.first_s = self.now_s = time.perf_counter()
        try:
            silent = self.tokenizer.silent_tokens() if self.settings.grammar is not None else ()
            with self.make_sampler(self.tokenizer.vocab, self.settings, self.prompt, silent=silent) as sampler:
                self.sampler = sampler
                # 1. Decode the prompt: the logits of its last token predict the next one.
                prefill(self.steps, self.prompt, self.step, n_reused)
                while True:
                    # 2. Sample: choose a token from the logits.
                    token = output.splitter.choose(sampler, ctx, -1)
                    if job.cancelled:  # during the step: the logits of a lost device are invalid
                        raise CancelledError
                    self.now_s = time.perf_counter()
                    if not output.tokens:
                        self.first_s = self.now_s
                    # 3. Append it to the text.
                    for kind, text in output.append(token, ctx):
                        emit(self._chunk(text, kind))
                    # 4. Stop?
                    if output.finish_reason is not None:
                        break
                    # 5. Decode it: reads all weights once, and computes the next logits.
                    slot[0] = token
                    self.steps.decode(batch, 1)
                    self.n_decoded += 1
        except CancelledError:
            output.finish_reason = "cancelled"
        *others, (kind, text) = output.finish() or [("answer", "")]
        for part in others:
            emit(self._chunk(part[1], part[0]))
        emit(self._chunk(text, kind, output.finish_reason))
        return self.report()

    def _chunk(self, text: str, kind: Kind, finish_reason: FinishReason | None = None) -> TextChunk:
        decoding = self.now_s - self.first_s
        self.texts.append(text if kind == "answer" else "")
        return TextChunk(
            text,
            len(self.prompt),
            len(self.output.tokens),
            self.first_s - self.started_s,
            self.now_s - self.started_s,
            (len(self.output.tokens) - 1) / decoding if decoding > 0 else 0.0,
            finish_reason,
            self.steps.used.last,
            kind,
        )

    def report(self) -> GenerationReport:
        """Return the figures of this run."""
        return GenerationReport(
            n_prompt=len(self.prompt),
            n_reused=self.n_reused,
            n_generated=len(self.output.tokens),
            prefill_s=self.first_s - self.started_s,
            decode_s=self.now_s - self.first_s,
            finish_reason=self.output.finish_reason or "length",
            seed=self.sampler.seed if self.sampler is not None else 0,
            token_ids=tuple(self.output.tokens),
            logprobs=tuple(self.output.logprobs),
            n_threads=self.steps.used.summary(),
            n_threads_batch=self.steps.used_batch.summary(),
            reasoning=self.output.splitter.reasoning,
            text="".join(self.texts),
            tool_calls=() if (read := self.output.splitter.read_calls) is None else read(self.output.tokens),
        )


class Stream(Iterator[T]):
    """The output while it is generated: iterate, and ``close()`` (or leave a ``with``) to end it early.

    The model works ahead of the reader, so a slow reader does not slow it down; closing early cancels the rest.
    Any thread may read or close it.
    """

    def __init__(self, chunks: Iterator[T], cancel: Callable[[], object]) -> None:
        self._chunks, self._cancel = chunks, cancel
        self._lock = threading.Lock()

    def __next__(self) -> T:
        try:
            with self._lock:
                return next(self._chunks)
        except KeyboardInterrupt:
            raise Interrupted(INTERRUPTED) from None

    def close(self) -> None:
        """End the generation if it is still running."""
        self._cancel()
        if self._lock.acquire(blocking=False):  # otherwise another thread waits for a chunk, and gets the end
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
