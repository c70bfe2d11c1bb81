"""Probabilities of generated tokens, from the model's own logits: before penalties, grammar, temperature and other samplers.

That is what OpenAI's ``logprobs`` and llama-server's default (``post_sampling_probs`` off) mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.engine.native import C
from labkit.engine.results import TokenLogprob

if TYPE_CHECKING:
    from labkit.engine.tokenizer import Tokenizer

_LEAST = -9999.0  # as OpenAI writes "impossible", which JSON cannot


def token_logprob(ctx: Any, index: int, tokenizer: Tokenizer, token: int, n_top: int) -> TokenLogprob:
    """Return a token's probability in a row of logits, and the ``n_top`` most likely tokens."""
    row = np.ctypeslib.as_array(C.llama_get_logits_ith(ctx, index), (tokenizer.n_vocab,))
    logits = row.astype(np.float64) - row.max()
    logits = np.maximum(logits - np.log(np.exp(logits).sum()), _LEAST)
    n_top = min(n_top, len(logits))
    best = np.argpartition(-logits, n_top - 1)[:n_top] if n_top else np.empty(0, np.int64)
    ranked = sorted(best, key=lambda one: (-logits[one], one))

    def entry(one: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        piece = tokenizer.piece(one) or tokenizer.token_text(one).encode()
        return TokenLogprob(one, piece.decode("utf-8", "replace"), piece, float(logits[one]), top)

    return entry(token, tuple(entry(int(one)) for one in ranked))
