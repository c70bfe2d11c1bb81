"""What a generation gives besides its text."""

from __future__ import annotations

import dataclasses
from typing import Literal

from labkit.records import Record

FinishReason = Literal["stop", "end", "length", "cancelled"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TextChunk(Record):
    """A piece of a streamed text.

    Attributes
    ----------
    text : str
        New text: whole characters, without the stop sequence; may be empty in the last chunk.
    n_prompt : int
        Tokens of the prompt.
    n_generated : int
        Tokens generated so far.
    time_to_first_token_s : float
        From the beginning of the prompt's processing to the first token, in seconds.
    elapsed_s : float
        From the beginning of the prompt's processing to now, in seconds.
    tokens_per_second : float
        Speed of decoding so far, the prompt left out; 0 at the first token.
    finish_reason : str or None
        In the last chunk: ``"end"`` (the model ended its text), ``"stop"`` (a stop sequence), ``"length"`` (max_tokens,
        or the context is full), ``"cancelled"``. None before.
    n_threads : int
        Threads that computed the last token; 0 at the first token.
    """

    text: str
    n_prompt: int
    n_generated: int
    time_to_first_token_s: float
    elapsed_s: float
    tokens_per_second: float
    finish_reason: FinishReason | None = None
    n_threads: int = 0

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class GenerationReport(Record):
    """How the last generation of a model went: ``model.last_generation``.

    Attributes
    ----------
    n_prompt, n_reused, n_generated : int
        Tokens of the prompt, how many of them were still in the cache, and generated tokens.
    prefill_s, decode_s : float
        Seconds for the prompt up to the first token, and for the tokens after it.
    finish_reason : str
        As in `TextChunk`.
    seed : int
        The seed that was used; pass it again for the same text.
    n_threads, n_threads_batch : int or tuple of (int, int)
        Threads that computed single tokens, and pieces of the prompt: one number, or (threads, tokens) pairs in order where
        it changed on the way; 0 where there were no such steps.
    """

    n_prompt: int
    n_reused: int
    n_generated: int
    prefill_s: float
    decode_s: float
    finish_reason: FinishReason
    seed: int
    token_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    n_threads: int | tuple[tuple[int, int], ...] = 0
    n_threads_batch: int | tuple[tuple[int, int], ...] = 0

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed of generation alone: the tokens after the first over the time they took."""
        return (self.n_generated - 1) / self.decode_s if self.n_generated > 1 and self.decode_s > 0 else 0.0

    @property
    def prompt_tokens_per_second(self) -> float:
        """Speed of prompt processing: the tokens that were computed over the time to the first token."""
        return (self.n_prompt - self.n_reused) / self.prefill_s if self.prefill_s > 0 else 0.0
