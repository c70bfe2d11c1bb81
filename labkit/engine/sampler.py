"""The chain of samplers that llama.cpp applies to the logits, in llama.cpp's order."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.engine.native import C
from labkit.engine.sampling_settings import MAX_SEED, SamplingSettings
from labkit.errors import ArgumentError, GenerationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Sampler:
    """A native sampler chain, and a grammar.

    The chain's order is llama.cpp's: penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature, draw.
    Penalties and DRY include the last tokens of the prompt, as in llama.cpp's own tools. ``silent`` tokens add nothing to a
    text, but llama.cpp's grammars match their names, so ``<|im_start|>`` could match twelve characters that are not in
    the text; with a grammar that does not name tokens they are never chosen.

    References
    ----------
    llama.cpp ``src/llama-sampler.cpp`` (``llama_sampler_sample``), ``common/sampling.cpp`` (the order).
    """

    def __init__(
        self, vocab: Any, settings: SamplingSettings, prompt: Sequence[int] = (), *, silent: Sequence[int] = ()
    ) -> None:
        self.seed = settings.seed if settings.seed is not None else int.from_bytes(os.urandom(8), "little") % (MAX_SEED + 1)
        self._grammar: Any = None
        self._silent = silent
        self._n_vocab = C.llama_vocab_n_tokens(vocab)
        changes = settings.penalizes or settings.has_dry or settings.may_drop_highest or settings.grammar is not None
        self._takes_highest = settings.is_greedy and not changes
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
            from labkit.grammar.check import tokens_in

            self._grammar = _grammar(vocab, settings.grammar)
            self._candidates = _Candidates(self._n_vocab, () if tokens_in(settings.grammar) else self._silent)
        if settings.penalizes:
            self._add(_penalties(self._n_vocab, settings), prompt[-settings.repeat_last_n :])
        if settings.has_dry:
            self._add(_dry(vocab, settings), prompt[-settings.dry_penalty_last_n :])
        if not settings.is_greedy or settings.may_drop_highest:
            self._fill_cuts(settings)
        if settings.is_greedy:
            self._add(C.llama_sampler_init_greedy())
            return
        self._add(C.llama_sampler_init_temp(settings.temperature))
        self._add(C.llama_sampler_init_dist(self.seed))

    def _fill_cuts(self, settings: SamplingSettings) -> None:
        """Add the samplers that drop tokens."""
        if settings.top_n_sigma > 0.0:
            self._add(C.llama_sampler_init_top_n_sigma(settings.top_n_sigma))
        if 0 < settings.top_k < self._n_vocab:
            self._add(C.llama_sampler_init_top_k(settings.top_k))
        if settings.typical_p < 1.0:
            self._add(C.llama_sampler_init_typical(settings.typical_p, 1))
        if settings.top_p < 1.0:
            self._add(C.llama_sampler_init_top_p(settings.top_p, 1))
        if settings.min_p > 0.0:
            self._add(C.llama_sampler_init_min_p(settings.min_p, 1))
        if settings.xtc_probability > 0.0:
            self._add(C.llama_sampler_init_xtc(settings.xtc_probability, settings.xtc_threshold, 1, self.seed))

    def _add(self, sampler: Any, seen: Sequence[int] = ()) -> None:
        for token in seen:
            C.llama_sampler_accept(sampler, token)
        C.llama_sampler_chain_add(self.chain, sampler)

    def sample(self, ctx: Any, index: int = -1, *, free: bool = False) -> int:
        """Choose the next token from the logits of a token of the batch, its last by default, and update every sampler.

        ``free`` leaves the grammar out, which begins later.
        """
        if self._takes_highest and (highest := self._highest(ctx, index)) is not None:
            return highest
        if self._grammar is None or free:
            return int(C.llama_sampler_sample(self.chain, ctx, index))
        # A grammar needs about 100 ms to check the whole vocabulary, so it checks one sampled token first; the probabilities
        # of allowed tokens are the same either way, as in llama.cpp's own tools.
        token = self._candidates.apply([self.chain], ctx, index)
        if token is None or not self._allows(token):
            token = self._candidates.apply([self._grammar, self.chain], ctx, index)
        if token is None:  # or penalties beyond float32 left only -inf
            token = self._candidates.apply([self._grammar], ctx, index)
        if token is None:
            raise _nothing_allowed()
        C.llama_sampler_accept(self._grammar, token)
        C.llama_sampler_accept(self.chain, token)
        return token

    def allowed(self, tokens: Sequence[int]) -> NDArray[np.bool_]:
        """Return which tokens the grammar allows after the given ones."""
        for token in tokens:
            if not self._allows(token):
                raise ArgumentError("the grammar does not allow this text: give its beginning, or another grammar")
            C.llama_sampler_accept(self._grammar, token)
        return self._candidates.allowed(self._grammar)

    def accept(self, token: int) -> None:
        """Note a token that was put into the text."""
        C.llama_sampler_accept(self.chain, token)

    def _highest(self, ctx: Any, index: int) -> int | None:
        """Return the first token with the highest logit, in a tenth of a chain's time; None if the chain has to choose."""
        address = ctypes.cast(C.llama_get_logits_ith(ctx, index), ctypes.c_void_p).value
        if address is None:
            return None
        logits = np.frombuffer((ctypes.c_float * self._n_vocab).from_address(address), np.float32)
        token = int(logits.argmax())
        return token if np.isfinite(logits[token]) else None

    def _allows(self, token: int) -> bool:
        one = (C.llama_token_data * 1)(C.llama_token_data(token, 1.0, 0.0))
        array = C.llama_token_data_array(data=one, size=1, selected=-1, sorted=False)
        C.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(np.isfinite(one[0].logit))

    def close(self) -> None:
        """Free the chain, what it owns, and the grammar."""
        for sampler in (self.chain, self._grammar):
            if sampler is not None:
                C.llama_sampler_free(sampler)
        self.chain = self._grammar = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sample_allowed(chain: Any, ctx: Any, n_vocab: int, index: int = -1) -> int:
    """Choose like ``llama_sampler_sample``, but raise if a grammar in the chain forbids the chosen token.

    Accepting a forbidden token would crash the process.
    """
    token = _Candidates(n_vocab).apply([chain], ctx, index)
    if token is None:
        raise _nothing_allowed()
    C.llama_sampler_accept(chain, token)
    return token


class _Candidates:
    """The tokens that a sampler may choose from, in memory that llama.cpp reads and writes."""

    def __init__(self, n_vocab: int, never: Sequence[int] = ()) -> None:
        self._never = np.asarray(never, np.int64)
        self._tokens = np.zeros(n_vocab, _CANDIDATE)
        self._ids = np.arange(n_vocab, dtype=np.int32)

    def allowed(self, grammar: Any) -> NDArray[np.bool_]:
        """Return which tokens a grammar allows next."""
        tokens = self._tokens
        tokens["id"], tokens["logit"] = self._ids, 0.0
        tokens["logit"][self._never] = -np.inf
        data = tokens.ctypes.data_as(C.llama_token_data_p)
        array = C.llama_token_data_array(data=data, size=len(tokens), selected=-1, sorted=False)
        C.llama_sampler_apply(grammar, ctypes.byref(array))
        allowed: NDArray[np.bool_] = np.isfinite(tokens["logit"])
        return allowed

    def apply(self, samplers: Sequence[Any], ctx: Any, index: int = -1) -> int | None:
        """Apply samplers to a row of logits, and return the chosen token, or the likeliest if they only drop some.

        None if no token is left.
        """
        tokens, n_vocab = self._tokens, len(self._ids)
        tokens["id"] = self._ids  # samplers sort them
        tokens["logit"] = np.ctypeslib.as_array(C.llama_get_logits_ith(ctx, index), shape=(n_vocab,))
        tokens["logit"][self._never] = -np.inf
        tokens["p"] = 0.0
        data = tokens.ctypes.data_as(C.llama_token_data_p)
        array = C.llama_token_data_array(data=data, size=n_vocab, selected=-1, sorted=False)
        for sampler in samplers:
            C.llama_sampler_apply(sampler, ctypes.byref(array))
        selected = array.selected if array.selected >= 0 else int(tokens["logit"].argmax())
        chosen = array.data[selected] if selected < array.size else None
        return None if chosen is None or not np.isfinite(chosen.logit) else int(chosen.id)


def _nothing_allowed() -> GenerationError:
    return GenerationError(
        "the grammar allows no token of this model here: check it for characters or lengths that no text can satisfy"
    )


def refuse_unknown_tokens(vocab: Any, grammar: str) -> None:
    """Refuse a valid grammar that names tokens, such as ``<|im_end|>``, that this model does not have."""
    room = (C.llama_token * 2)()
    from labkit.grammar.check import tokens_in

    for name in tokens_in(grammar):
        if name.startswith("<["):
            continue
        data = name.encode("utf-8")
        if C.llama_tokenize(vocab, data, len(data), room, 2, False, True) != 1:
            raise ArgumentError(
                f"the grammar names the token {name!r}, which this model does not have: use its text in quotes"
            )


# llama-cpp-python 0.3.34's functions have one argument less (n_vocab), or one more (n_ctx_train).
def _penalties(n_vocab: int, settings: SamplingSettings) -> Any:
    init = C.llama_sampler_init_penalties
    given = settings.repeat_last_n, settings.repeat_penalty, settings.frequency_penalty, settings.presence_penalty
    return init(n_vocab, *given) if len(init.argtypes) == 5 else init(*given)


def _dry(vocab: Any, settings: SamplingSettings) -> Any:
    init, last_n = C.llama_sampler_init_dry, settings.dry_penalty_last_n
    given = settings.dry_multiplier, settings.dry_base, settings.dry_allowed_length, last_n
    breakers = [text.encode() for text in settings.dry_sequence_breakers]
    before = (vocab,) if len(init.argtypes) == 7 else (vocab, last_n)
    return init(*before, *given, (ctypes.c_char_p * len(breakers))(*breakers), len(breakers))


def _grammar(vocab: Any, grammar: str) -> Any:
    refuse_unknown_tokens(vocab, grammar)
    sampler = C.llama_sampler_init_grammar(vocab, grammar.encode("utf-8"), b"root")
    if not sampler:
        raise ArgumentError("llama.cpp refused the grammar, though labkit found no error in it: please report this")
    return sampler
