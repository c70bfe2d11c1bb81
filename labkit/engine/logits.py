"""What a model computes before it chooses: the logits of the next token, and the mask that a grammar puts on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.checks import check_flag
from labkit.engine.generation import prefill
from labkit.engine.job import Job
from labkit.engine.model import Model, check_model
from labkit.engine.native import C
from labkit.engine.sampler import Sampler
from labkit.engine.sampling_settings import check_sampling
from labkit.engine.stepping import CancelledError
from labkit.errors import ContextOverflowError, GenerationError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        A copy; higher means more likely. `labkit.sampling.softmax` converts them to probabilities.

    Raises
    ------
    ContextOverflowError
        When the prompt does not fit into the context.
    GenerationError
        When the engine fails, or the computation was cancelled.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model:
    ...     logits = labkit.next_token_logits(model, "The capital of France is")
    ...     logits.shape, labkit.token_text(model, int(logits.argmax()))
    ((49152,), ' Paris')
    """
    parse = check_flag("parse_special", parse_special)
    with check_model(model).vocabulary() as tokenizer:
        tokens = tokenizer.prompt_tokens(prompt, parse_special=parse)
    if len(tokens) > model.n_ctx():
        raise ContextOverflowError(len(tokens), 0, model.n_ctx())
    try:
        return model.compute(lambda job: _logits(model, tokens, job))
    except CancelledError:
        raise GenerationError("this computation was cancelled") from None


def _logits(model: Model, tokens: list[int], job: Job[NDArray[np.float32]]) -> NDArray[np.float32]:
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


def allowed_tokens(model: Model, grammar: str, text: str = "") -> NDArray[np.bool_]:
    """Return which tokens a grammar allows next: the mask that constrained decoding puts on the logits.

    Parameters
    ----------
    grammar : str
        GBNF, as for `generate_text`.
    text : str
        What was generated so far; the grammar must allow it.

    Returns
    -------
    array of bool, shape (n_vocab,)
        True for the tokens whose text may come next, and for the ends of a text where it may end.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model:
    ...     mask = labkit.allowed_tokens(model, 'root ::= "yes" | "no"', "y")
    ...     [labkit.token_text(model, int(token)) for token in mask.nonzero()[0]]
    ['e', 'es']
    """
    settings = check_sampling(0, {"grammar": grammar})
    with check_model(model).vocabulary() as tokenizer:
        tokens = tokenizer.tokenize(text)
        with Sampler(tokenizer.vocab, settings, silent=tokenizer.silent_tokens()) as sampler:
            return sampler.allowed(tokens)
