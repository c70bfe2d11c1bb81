"""The logits of the next token: what every sampler starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.checks import check_flag
from labkit.engine.generation import prefill
from labkit.engine.model import check_model
from labkit.engine.native import C
from labkit.engine.stepping import CancelledError
from labkit.errors import ContextOverflowError, GenerationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from labkit.engine.model import Model
    from labkit.engine.worker import Job

__all__ = ["next_token_logits", "token_text"]


def next_token_logits(model: Model, prompt: str, *, parse_special: bool = False) -> NDArray[np.float32]:
    """Compute the logits of the token that would follow a text.

    Parameters
    ----------
    model : Model
        From `load_model`.
    prompt : str
        As for `generate_text`.
    parse_special : bool
        Read text such as ``<|im_end|>`` as one control token.

    Returns
    -------
    array of float32, shape (n_vocab,)
        A copy; the higher, the likelier. `labkit.sampling.softmax` makes probabilities of them.

    Raises
    ------
    ContextOverflowError
        When the prompt does not fit the context.
    GenerationError
        When the engine fails, or the computation was cancelled.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model:
    ...     logits = next_token_logits(model, "The capital of France is")
    ...     logits.shape, token_text(model, int(logits.argmax()))
    ((49152,), ' Paris')
    """
    parse = check_flag("parse_special", parse_special)
    with check_model(model).vocabulary() as tokenizer:
        tokens = tokenizer.prompt_tokens(prompt, parse_special=parse)
    if len(tokens) > model.n_ctx():
        raise ContextOverflowError(len(tokens), 0, model.n_ctx())
    try:
        return model.compute(lambda job: _compute(model, tokens, job))
    except CancelledError:
        raise GenerationError("this computation was cancelled") from None


def token_text(model: Model, token: int) -> str:
    """Return a token as text; a byte that is no whole character as ``�``."""
    with check_model(model).vocabulary() as tokenizer:
        return tokenizer.piece(token).decode("utf-8", errors="replace")


def _compute(model: Model, tokens: list[int], job: Job[NDArray[np.float32]]) -> NDArray[np.float32]:
    try:
        with model.steps(job) as steps:
            n_reused = model.prepare_memory(tokens)
            prefill(steps, tokens, model._cache.step, n_reused)
            model._cache.add_prompt(tokens[n_reused:])
        row = C.llama_get_logits_ith(model.native.ctx, -1)
        return np.array(np.ctypeslib.as_array(row, shape=(model.native.n_vocab,)), dtype=np.float32)
    except BaseException:
        model.clear_memory()
        raise
