"""One prompt of a batch while it is computed: the state that generate_text's loop keeps."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import Any

from labkit.batch.records import BatchItem
from labkit.engine.detokenizer import TextAssembler
from labkit.engine.generation import GenerationRequest, Output
from labkit.engine.results import FinishReason, Kind
from labkit.engine.sampler import Sampler
from labkit.engine.tokenizer import Tokenizer
from labkit.errors import LabkitError


class Sequence:
    """A request that is being computed; until it has started, it can wait for another one to compute a shared prefix.

    ``n_past`` prompt tokens are in the cache; ``n_shared`` of them were copied from another sequence.
    """

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer, silent: Tokens[int]) -> None:
        self.request = request
        self.n_past = self.n_shared = 0
        self.started = False
        settings = request.settings
        text = TextAssembler(settings.stop)
        self.output = Output(tokenizer, request.max_tokens, text, settings.logprobs, request.splitter)
        self.pieces: list[str] = []
        self.thoughts = ""  # reasoning that was not passed on yet
        self.first_s: float | None = None
        self.now_s = 0.0
        self._sampler = Sampler(tokenizer.vocab, request.settings, request.prompt, silent=silent)
        self.seed = self._sampler.seed

    @property
    def tokens(self) -> list[int]:
        """What was generated; the last one is not in the cache yet."""
        return self.output.tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None before."""
        return self.output.finish_reason

    @property
    def is_prefilling(self) -> bool:
        """Whether the prompt is not completely computed."""
        return self.n_past < len(self.request.prompt)

    def next_tokens(self, room: int) -> tuple[list[int], int]:
        """Return the tokens to compute next, up to ``room``, and the first one's position."""
        if self.is_prefilling:
            return self.request.prompt[self.n_past : self.n_past + room], self.n_past
        return self.tokens[-1:] if room else [], len(self.request.prompt) + len(self.tokens) - 1

    def sample(self, ctx: Any, row: int, elapsed_s: float) -> str:
        """Sample the next token from a row of logits; return the new text that is final."""
        token = self.output.splitter.choose(self._sampler, ctx, row)
        self.now_s = elapsed_s
        if self.first_s is None:
            self.first_s = elapsed_s
        return self._answer(self.output.append(token, ctx, row))

    def finish(self) -> str:
        """Return the text that was held back."""
        return self._answer(self.output.finish())

    def _answer(self, parts: list[tuple[Kind, str]]) -> str:
        self.thoughts += "".join(text for kind, text in parts if kind == "reasoning")
        return "".join(text for kind, text in parts if kind == "answer")

    def close(self) -> None:
        """Free the sampler."""
        self._sampler.close()

    def item(self, error: LabkitError | None = None) -> BatchItem:
        """Return the result."""
        return BatchItem(
            index=self.request.index,
            text="".join(self.pieces),
            n_prompt=len(self.request.prompt),
            n_shared=self.n_shared,
            n_generated=len(self.tokens),
            time_to_first_token_s=self.first_s or 0.0,
            elapsed_s=self.now_s,
            finish_reason=None if error else self.finish_reason,
            seed=self.seed,
            error=error,
            token_ids=tuple(self.tokens),
            logprobs=tuple(self.output.logprobs),
        )
