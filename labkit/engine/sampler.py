"""The chain of samplers that llama.cpp applies to the logits, in llama.cpp's order."""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from labkit.engine.arguments import MAX_SEED, SamplingSettings
from labkit.engine.bindings import C
from labkit.engine.grammar import named_tokens
from labkit.errors import ArgumentError, GenerationError

__all__ = ["Sampler", "refuse_unknown_tokens", "sample_allowed"]

PENALTY_LAST_N = 64  # llama.cpp's own default: how many of the last tokens a repeat penalty looks at
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Sampler:
    """A native sampler chain: grammar, repeat penalty, top-k, top-p, min-p, temperature, draw.

    Parameters
    ----------
    vocab : llama_vocab pointer
    settings : SamplingSettings
    prompt : sequence of int
        The prompt's tokens: a repeat penalty counts the last of them, as llama.cpp's own tools do.

    Attributes
    ----------
    seed : int
        What the draw was seeded with; chosen at random when none was asked for.

    References
    ----------
    llama.cpp ``src/llama-sampler.cpp`` (``llama_sampler_sample``), ``common/sampling.cpp`` (the order).
    """

    def __init__(self, vocab: Any, settings: SamplingSettings, prompt: Sequence[int] = ()) -> None:
        self.seed = settings.seed if settings.seed is not None else secrets.randbelow(MAX_SEED + 1)
        self._constrained = settings.grammar is not None
        self._n_vocab = C.llama_vocab_n_tokens(vocab)
        parameters = C.llama_sampler_chain_default_params()
        parameters.no_perf = False
        self.chain = C.llama_sampler_chain_init(parameters)
        try:
            self._fill(vocab, settings, prompt)
        except BaseException:
            self.close()
            raise

    def _fill(self, vocab: Any, settings: SamplingSettings, prompt: Sequence[int]) -> None:
        if settings.grammar is not None:
            self._add(_grammar(vocab, settings.grammar))
        if settings.repeat_penalty != 1.0:
            penalties = C.llama_sampler_init_penalties(self._n_vocab, PENALTY_LAST_N, settings.repeat_penalty, 0.0, 0.0)
            for token in prompt[-PENALTY_LAST_N:]:
                C.llama_sampler_accept(penalties, token)
            self._add(penalties)
        if settings.is_greedy:
            self._add(C.llama_sampler_init_greedy())
            return
        if 0 < settings.top_k < self._n_vocab:
            self._add(C.llama_sampler_init_top_k(settings.top_k))
        if settings.top_p < 1.0:
            self._add(C.llama_sampler_init_top_p(settings.top_p, 1))
        if settings.min_p > 0.0:
            self._add(C.llama_sampler_init_min_p(settings.min_p, 1))
        self._add(C.llama_sampler_init_temp(settings.temperature))
        self._add(C.llama_sampler_init_dist(self.seed))

    def _add(self, sampler: Any) -> None:
        C.llama_sampler_chain_add(self.chain, sampler)

    def sample(self, ctx: Any) -> int:
        """Choose the next token from the last row of logits, and let every sampler know."""
        if not self._constrained:
            return int(C.llama_sampler_sample(self.chain, ctx, -1))
        return sample_allowed(self.chain, ctx, self._n_vocab)

    def close(self) -> None:
        """Free the chain and what it owns."""
        if self.chain is not None:
            C.llama_sampler_free(self.chain)
            self.chain = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sample_allowed(chain: Any, ctx: Any, n_vocab: int, index: int = -1) -> int:
    """Choose as ``llama_sampler_sample`` does, but refuse a token that a grammar in the chain ruled out.

    Accepting such a token would end the process.

    Raises
    ------
    GenerationError
        When the grammar allows no token.
    """
    logits = np.ctypeslib.as_array(C.llama_get_logits_ith(ctx, index), shape=(n_vocab,))
    candidates = np.empty(n_vocab, _CANDIDATE)
    candidates["id"] = np.arange(n_vocab, dtype=np.int32)
    candidates["logit"] = logits
    candidates["p"] = 0.0
    array = C.llama_token_data_array(
        data=candidates.ctypes.data_as(C.llama_token_data_p), size=n_vocab, selected=-1, sorted=False
    )
    C.llama_sampler_apply(chain, ctypes.byref(array))
    chosen = array.data[array.selected] if 0 <= array.selected < array.size else None
    if chosen is None or not np.isfinite(chosen.logit):
        raise GenerationError(
            "the grammar allows no token that this model has at this place: check it for characters or lengths "
            "that no text can meet"
        )
    C.llama_sampler_accept(chain, chosen.id)
    return int(chosen.id)


def refuse_unknown_tokens(vocab: Any, grammar: str) -> None:
    """Refuse a sound grammar that names tokens, such as ``<|im_end|>``, which this model does not have.

    Raises
    ------
    ArgumentError
        With the token's name.
    """
    room = (C.llama_token * 2)()
    for name in named_tokens(grammar):
        data = name.encode("utf-8")
        if C.llama_tokenize(vocab, data, len(data), room, 2, False, True) != 1:
            raise ArgumentError(
                f"the grammar names the token {name!r}, which this model does not have: use its text in quotes"
            )


def _grammar(vocab: Any, grammar: str) -> Any:
    refuse_unknown_tokens(vocab, grammar)
    sampler = C.llama_sampler_init_grammar(vocab, grammar.encode("utf-8"), b"root")
    if not sampler:
        raise ArgumentError("llama.cpp refused the grammar, though labkit found no fault in it: please report this")
    return sampler
