"""The generation loop, and the functions that students call.

One token costs one ``llama_decode``, one pass of the sampler chain in C and one ``llama_token_to_piece``. Nothing is
computed twice and nothing grows with the length: the batch is reused, text is decoded incrementally, and stop
sequences are looked for in the new text only.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from labkit.engine.arguments import SamplingSettings, check_flag, check_max_tokens, check_sampling
from labkit.engine.bindings import C
from labkit.engine.prompts import Tokenizer, check_messages
from labkit.engine.results import FinishReason, GenerationReport, TextChunk
from labkit.engine.sampler import Sampler
from labkit.engine.text import TextAssembler
from labkit.errors import ArgumentTypeError, ContextOverflowError, GenerationError

if TYPE_CHECKING:
    from typing_extensions import Self

    from labkit.engine.model import Model
    from labkit.engine.worker import Job

__all__ = [
    "CancelledError",
    "Stream",
    "TextStream",
    "check_model",
    "count_chat_tokens",
    "count_tokens",
    "decode",
    "generate_chat",
    "generate_text",
    "prefill",
    "stream_chat",
    "stream_text",
]

T = TypeVar("T")

_ABORTED = 2  # what llama_decode returns when its abort callback asked for it
_DECODE_ERRORS = {
    1: "found no free place in its cache for the tokens",
    -1: "was given tokens that it cannot take",
    -2: "could not allocate the memory that the computation needs",
    -3: "failed in the middle of the computation",
}


class CancelledError(Exception):
    """The abort flag ended a computation."""


def decode(ctx: Any, batch: Any, job: Job[Any]) -> None:
    """Compute a batch of tokens.

    Raises
    ------
    CancelledError
        When the job was cancelled, before or meanwhile.
    GenerationError
        When the engine failed.
    """
    if job.cancelled:
        raise CancelledError
    status = C.llama_decode(ctx, batch)
    if status == _ABORTED:
        raise CancelledError
    if status != 0:
        reason = _DECODE_ERRORS.get(status, f"answered {status}")
        raise GenerationError(f"llama_decode {reason}: load the model again, with a smaller n_ctx or n_batch if that recurs")


def prefill(ctx: Any, prompt: list[int], n_batch: int, job: Job[Any], n_reused: int = 0) -> None:
    """Compute a prompt's tokens from number ``n_reused`` on, ``n_batch`` at a time; raises as `decode`."""
    tokens = (C.llama_token * len(prompt))(*prompt)
    for start in range(n_reused, len(prompt), n_batch):
        count = min(n_batch, len(prompt) - start)
        address = ctypes.byref(tokens, start * ctypes.sizeof(C.llama_token))
        decode(ctx, C.llama_batch_get_one(ctypes.cast(address, ctypes.POINTER(C.llama_token)), count), job)


class Generation:
    """One run of the loop, in the worker's thread.

    Parameters
    ----------
    ctx, tokenizer, n_ctx, n_batch
        The native context, its vocabulary, and its sizes in tokens.
    prompt : list of int
        At least one token.
    max_tokens : int or None
    settings : SamplingSettings
    """

    def __init__(
        self,
        ctx: Any,
        tokenizer: Tokenizer,
        n_batch: int,
        prompt: list[int],
        max_tokens: int,
        settings: SamplingSettings,
    ) -> None:
        self.ctx, self.tokenizer, self.n_batch = ctx, tokenizer, n_batch
        self.prompt, self.max_tokens, self.settings = prompt, max_tokens, settings
        self.text = TextAssembler(settings.stop)
        self.tokens: list[int] = []
        self.n_reused = 0
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
                prefill(self.ctx, self.prompt, self.n_batch, job, self.n_reused)
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
            decode(self.ctx, batch, job)

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


def generate_text(model: Model, prompt: str, max_tokens: int | None = 100, temperature: float = 0.7, **kwargs: Any) -> str:
    """Continue a text.

    Parameters
    ----------
    model : Model
        From `load_model`.
    prompt : str
        The text to continue. Text such as ``<|im_end|>`` in it stays text.
    max_tokens : int or None
        Most tokens to generate; None is "until the text ends or the context is full", 0 gives an empty text.
    temperature : float
        0 always takes the likeliest token; higher is more varied.
    **kwargs
        ``stop`` (str or list of str), ``seed`` (int), ``top_k`` (40), ``top_p`` (0.95), ``min_p`` (0.05), ``repeat_penalty``
        (1.0), ``json_schema`` (dict), ``grammar`` (GBNF text), ``parse_special`` (False).

    Returns
    -------
    str
        The continuation alone, without the prompt and without the stop sequence.

    Raises
    ------
    ContextOverflowError
        When prompt and ``max_tokens`` do not fit the context; nothing has been computed then.
    ArgumentError, ArgumentTypeError
        For a wrong argument.
    ModelClosedError
        After ``model.close()``.
    GenerationError
        When the engine fails.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model:
    ...     labkit.generate_text(model, "1, 2, 3, 4,", max_tokens=6, temperature=0)
    ' 5, 6,'
    """
    return "".join(chunk.text for chunk in _run(model, _text_request(model, prompt, max_tokens, temperature, kwargs)))


def stream_text(
    model: Model, prompt: str, max_tokens: int | None = 100, temperature: float = 0.7, **kwargs: Any
) -> TextStream:
    """Continue a text and yield it as it comes; takes what `generate_text` takes.

    Returns
    -------
    TextStream
        An iterator of `TextChunk`; the chunks' texts joined are the text of `generate_text`.
    """
    return _stream(model, _text_request(model, prompt, max_tokens, temperature, kwargs))


def generate_chat(
    model: Model,
    messages: Sequence[Mapping[str, str]],
    max_tokens: int | None = 100,
    temperature: float = 0.7,
    **kwargs: Any,
) -> str:
    """Answer a conversation with the model's own chat template.

    Parameters
    ----------
    messages : list of dict
        Each with ``role`` (system, user or assistant) and ``content`` (text). Control tokens typed in a message stay text.
    max_tokens, temperature, **kwargs
        As for `generate_text`, without ``parse_special``.

    Returns
    -------
    str
        The assistant's answer.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an empty list, an unknown role, a message without content.
    GenerationError
        When the model has no chat template, or its template refuses the messages.
    ContextOverflowError
        As for `generate_text`.
    """
    return "".join(chunk.text for chunk in _run(model, _chat_request(model, messages, max_tokens, temperature, kwargs)))


def stream_chat(
    model: Model,
    messages: Sequence[Mapping[str, str]],
    max_tokens: int | None = 100,
    temperature: float = 0.7,
    **kwargs: Any,
) -> TextStream:
    """Answer a conversation and yield the answer as it comes; takes what `generate_chat` takes."""
    return _stream(model, _chat_request(model, messages, max_tokens, temperature, kwargs))


def count_tokens(model: Model, text: str, *, add_special: bool = False, parse_special: bool = False) -> int:
    """Count the tokens of a text.

    Parameters
    ----------
    add_special : bool
        Count what the model puts around a text too (mostly a beginning-of-sequence token).
    parse_special : bool
        Read text such as ``<|im_end|>`` as one control token.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model:
    ...     labkit.count_tokens(model, "Hello, world!")
    4
    """
    with check_model(model).vocabulary() as tokenizer:
        return len(
            tokenizer.tokenize(
                text,
                add_special=check_flag("add_special", add_special),
                parse_special=check_flag("parse_special", parse_special),
            )
        )


def count_chat_tokens(model: Model, messages: Sequence[Mapping[str, str]]) -> int:
    """Count the tokens of the prompt that `generate_chat` makes of a conversation, template included."""
    checked = check_messages(messages)
    with check_model(model).vocabulary() as tokenizer:
        return len(tokenizer.chat_tokens(checked))


Request = tuple[list[int], int, SamplingSettings]


def _text_request(model: Model, prompt: str, max_tokens: Any, temperature: Any, options: dict[str, Any]) -> Request:
    parse_special = check_flag("parse_special", options.pop("parse_special", False))
    settings = check_sampling(temperature, options)
    limit = check_max_tokens(max_tokens)
    with check_model(model).vocabulary() as tokenizer:
        return _fit(model, tokenizer.prompt_tokens(prompt, parse_special=parse_special), limit, settings)


def _chat_request(model: Model, messages: Any, max_tokens: Any, temperature: Any, options: dict[str, Any]) -> Request:
    settings = check_sampling(temperature, options)
    limit = check_max_tokens(max_tokens)
    checked = check_messages(messages)
    with check_model(model).vocabulary() as tokenizer:
        return _fit(model, tokenizer.chat_tokens(checked), limit, settings)


def _fit(model: Model, prompt: list[int], max_tokens: int | None, settings: SamplingSettings) -> Request:
    n_ctx = model.n_ctx()
    if len(prompt) + (1 if max_tokens is None else max_tokens) > n_ctx:
        raise ContextOverflowError(len(prompt), max_tokens, n_ctx)
    return prompt, n_ctx - len(prompt) if max_tokens is None else max_tokens, settings


def _run(model: Model, request: Request) -> list[TextChunk]:
    if request[1] == 0:
        return []
    chunks: list[TextChunk] = []
    model.run_generation(*request, emit=chunks.append)
    return chunks


def _stream(model: Model, request: Request) -> TextStream:
    if request[1] == 0:
        only = TextChunk("", len(request[0]), 0, 0.0, 0.0, 0.0, "length")
        return TextStream((chunk for chunk in [only]), lambda: None)
    return TextStream(*model.stream_generation(*request))


def check_model(model: Any) -> Model:
    """Return a model from `load_model`; anything else is an ArgumentTypeError."""
    from labkit.engine.model import Model

    if not isinstance(model, Model):
        raise ArgumentTypeError(f"model must come from load_model(…), not {type(model).__name__}: model = load_model()")
    return model
