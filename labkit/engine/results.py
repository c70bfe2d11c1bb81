"""Results of a generation besides its text."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from labkit.records import Record

FinishReason = Literal["stop", "end", "length", "cancelled"]
Kind = Literal["answer", "reasoning"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TextChunk(Record):
    """A piece of a streamed text.

    Attributes
    ----------
    text : str
        New text: whole characters, without the stop sequence; the last chunk's may be empty.
    n_prompt : int
        Tokens of the prompt.
    n_generated : int
        Tokens generated so far.
    time_to_first_token_s : float
        From the start of prompt processing to the first token, in seconds.
    elapsed_s : float
        From the start of prompt processing to now, in seconds.
    tokens_per_second : float
        Decoding speed so far, without the prompt; 0 at the first token.
    finish_reason : str or None
        In the last chunk: ``"end"`` (the model ended its text), ``"stop"`` (a stop sequence), ``"length"`` (max_tokens,
        or the context is full), ``"cancelled"``. None in earlier chunks.
    n_threads : int
        Threads that computed the last token; 0 at the first token.
    kind : str
        ``"answer"``, or ``"reasoning"``: what a model thinks before it answers, without its marks.
    """

    text: str
    n_prompt: int
    n_generated: int
    time_to_first_token_s: float
    elapsed_s: float
    tokens_per_second: float
    finish_reason: FinishReason | None = None
    n_threads: int = 0
    kind: Kind = "answer"

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TokenLogprob(Record):
    """The probability that the model gave a token.

    Attributes
    ----------
    token : int
    text : str
        Its text; part of a character as ``�``.
    piece : bytes
        The bytes that it adds to a text; a control token's name.
    logprob : float
        The natural logarithm of its probability.
    top : tuple of TokenLogprob
        The most likely tokens in its place, most likely first; without ``top`` themselves.
    """

    token: int
    text: str
    piece: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class GenerationReport(Record):
    """Figures of a model's last generation: ``model.last_generation``.

    Attributes
    ----------
    n_prompt, n_reused, n_generated : int
        Prompt tokens, those of them that were still in the cache, and generated tokens.
    prefill_s, decode_s : float
        Seconds for the prompt up to the first token, and for the tokens after it.
    finish_reason : str
        As in `TextChunk`.
    seed : int
        The seed that was used; pass it again for the same text.
    n_threads, n_threads_batch : int or tuple of (int, int)
        Threads that computed single tokens, and pieces of the prompt: one number, or (threads, tokens) pairs in order if it
        changed; 0 if there were no such steps.
    token_ids : tuple of int
        The generated tokens, without the one that ended the text.
    logprobs : tuple of TokenLogprob
        With ``logprobs=N``: the probability of each of these tokens, and of the N most likely ones in its place, before
        penalties, temperature and other samplers.
    reasoning : str
        What the model thought before its answer, without its marks; empty if it did not.
    text : str
        The generated text; after an interrupt, the text so far.
    tool_calls : tuple of dict
        With ``tools``: the complete calls in the answer, as an assistant's message has them, where the model's template
        writes calls in a known form; the text still has them. Check the arguments: they come from a text.
    """

    n_prompt: int
    n_reused: int
    n_generated: int
    prefill_s: float
    decode_s: float
    finish_reason: FinishReason
    seed: int
    token_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    logprobs: tuple[TokenLogprob, ...] = dataclasses.field(default=(), repr=False)
    n_threads: int | tuple[tuple[int, int], ...] = 0
    n_threads_batch: int | tuple[tuple[int, int], ...] = 0
    reasoning: str = ""
    text: str = dataclasses.field(default="", repr=False)
    tool_calls: tuple[dict[str, Any], ...] = dataclasses.field(default=(), repr=False)

    @property
    def decode_tokens_per_second(self) -> float:
        """Decoding speed: the tokens after the first, divided by their time."""
        return (self.n_generated - 1) / self.decode_s if self.n_generated > 1 and self.decode_s > 0 else 0.0

    @property
    def prompt_tokens_per_second(self) -> float:
        """Prefill speed: the computed prompt tokens, divided by the time to the first token."""
        return (self.n_prompt - self.n_reused) / self.prefill_s if self.prefill_s > 0 else 0.0
