"""Results of a batch: one record per prompt, one of the whole batch, and chunks of text."""

from __future__ import annotations

import dataclasses

from labkit.engine.results import FinishReason, TokenLogprob
from labkit.errors import LabkitError
from labkit.records import Record


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BatchChunk(Record):
    """A piece of one of the texts.

    Attributes
    ----------
    index : int
        Of the prompt, from 0.
    text : str
        New text: whole characters, without the stop sequence; can be empty in a prompt's last chunk.
    n_generated : int
        Tokens generated for this prompt so far.
    elapsed_s : float
        Seconds since the start of the batch.
    finish_reason : str or None
        In a prompt's last chunk, as in `TextChunk`; None before, and if the prompt failed.
    error : LabkitError or None
        In the last chunk of a prompt that failed: why.
    """

    index: int
    text: str
    n_generated: int
    elapsed_s: float
    finish_reason: FinishReason | None = None
    error: LabkitError | None = None

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BatchItem(Record):
    """The result for one prompt.

    Attributes
    ----------
    index : int
        Of the prompt, from 0.
    text : str
        The continuation; partial if the prompt failed or was cancelled.
    n_prompt, n_shared, n_generated : int
        Prompt tokens, how many of them were copied from another sequence instead of computed, and generated tokens.
    time_to_first_token_s, elapsed_s : float
        From the start of the batch, including waiting, to this prompt's first and last token, in seconds.
    finish_reason : str or None
        As in `TextChunk`; None if the prompt failed.
    seed : int or None
        Pass it to `generate_text` for the same text; None if nothing was sampled.
    error : LabkitError or None
        Why this prompt failed.
    token_ids, logprobs
        As in `GenerationReport`.
    """

    index: int
    text: str
    n_prompt: int = 0
    n_shared: int = 0
    n_generated: int = 0
    time_to_first_token_s: float = 0.0
    elapsed_s: float = 0.0
    finish_reason: FinishReason | None = None
    seed: int | None = None
    error: LabkitError | None = None
    token_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    logprobs: tuple[TokenLogprob, ...] = dataclasses.field(default=(), repr=False)

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BatchResult(Record):
    """The result of a batch.

    Attributes
    ----------
    answers : tuple of BatchItem
        One per prompt, in the order of the prompts.
    n_parallel : int
        Maximum number of sequences decoded together.
    reason : str
        Why this number was chosen.
    n_prompt_computed, n_prompt_shared : int
        Tokens of all prompts that were computed, and that were copied from another sequence.
    n_generated : int
        Tokens of all texts.
    n_decodes : int
        Calls of ``llama_decode``; each reads the weights once, or a few times if it has prompts of different lengths.
    elapsed_s : float
        Wall time, including the creation of the cache.
    n_threads : int or tuple of (int, int)
        Threads used; (threads, tokens) pairs in order if their number changed.
    """

    answers: tuple[BatchItem, ...]
    n_parallel: int
    reason: str
    n_prompt_computed: int
    n_prompt_shared: int
    n_generated: int
    n_decodes: int
    elapsed_s: float
    n_threads: int | tuple[tuple[int, int], ...] = 0

    @property
    def texts(self) -> list[str]:
        """The texts, in the order of the prompts."""
        return [item.text for item in self.answers]

    @property
    def errors(self) -> dict[int, LabkitError]:
        """Index of the prompt -> why it failed."""
        return {item.index: item.error for item in self.answers if item.error is not None}

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of all prompts over the wall time, prompt processing included."""
        return self.n_generated / self.elapsed_s if self.elapsed_s > 0 else 0.0
