"""The functions that students call: a text, a chat, a count of tokens, the logits of the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.chat.messages import check_messages
from labkit.chat.options import ChatOptions, chat_prompt
from labkit.chat.thinking import Thinking
from labkit.checks import check_flag, check_int
from labkit.engine.generation import GenerationRequest, TextStream, prefill
from labkit.engine.job import Job
from labkit.engine.model import Model, check_model
from labkit.engine.native import C
from labkit.engine.results import TextChunk
from labkit.engine.sampler import Sampler
from labkit.engine.sampling_settings import SamplingSettings, check_max_tokens, check_sampling
from labkit.engine.stepping import CancelledError
from labkit.errors import ContextOverflowError, GenerationError, Interrupted

if TYPE_CHECKING:
    from numpy.typing import NDArray


def generate_text(model: Model, prompt: str, max_tokens: int | None = 100, temperature: float = 0.7, **kwargs: Any) -> str:
    """Continue a text.

    Parameters
    ----------
    model : Model
        From `load_model`.
    prompt : str
        The text to continue. Text such as ``<|im_end|>`` in it stays text.
    max_tokens : int or None
        Maximum number of tokens to generate; None means until the text ends or the context is full, 0 gives an empty text.
    temperature : float
        0 always chooses the most likely token; higher is more varied.
    **kwargs
        ``stop`` (str or list of str), ``seed`` (int), ``grammar`` (GBNF text), ``json_schema`` (dict, JSON text or pydantic
        class), ``logprobs`` (None, or how many alternatives, up to 20: see ``model.last_generation.logprobs``),
        ``parse_special`` (False).
        Samplers, in the order in which they are applied, with llama.cpp's names and meaning: ``repeat_penalty`` (1.0),
        ``frequency_penalty`` (0.0), ``presence_penalty`` (0.0), ``repeat_last_n`` (64); ``dry_multiplier`` (0.0),
        ``dry_base`` (1.75), ``dry_allowed_length`` (2), ``dry_penalty_last_n`` (64), ``dry_sequence_breakers`` (newline,
        colon, quotation mark, asterisk); ``top_n_sigma`` (-1.0); ``top_k`` (40); ``typical_p`` (1.0); ``top_p`` (0.95);
        ``min_p`` (0.05); ``xtc_probability`` (0.0), ``xtc_threshold`` (0.1).

    Returns
    -------
    str
        The continuation, without the prompt and the stop sequence.

    Raises
    ------
    ContextOverflowError
        When prompt and ``max_tokens`` do not fit into the context; nothing is computed.
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
    """Continue a text and yield it while it is generated; same arguments as `generate_text`.

    Returns
    -------
    TextStream
        An iterator of `TextChunk`; their joined texts are the text of `generate_text`.
    """
    return _stream(model, _text_request(model, prompt, max_tokens, temperature, kwargs))


def generate_chat(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    max_tokens: int | None = 100,
    temperature: float = 0.7,
    *,
    thinking: bool | None = None,
    max_thinking_tokens: int | None = None,
    tools: Sequence[Any] | None = None,
    template_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> str:
    """Answer a conversation with the model's own chat template.

    Parameters
    ----------
    messages : list of dict
        Each with ``role`` (system, user, assistant or tool) and ``content`` (text, or OpenAI's list of text parts). Control
        tokens typed in a message stay text. An assistant's message may have ``tool_calls`` and ``reasoning_content``, which
        the template keeps or drops.
    thinking : bool, optional
        Whether the model reasons before it answers; None leaves it to its template. False ends any reasoning at once.
    max_thinking_tokens : int, optional
        Tokens of reasoning; then the mark that ends it is put in, and the answer follows.
    tools : list, optional
        What the model may ask for: typed functions or OpenAI's dicts. Its request is text; see `choose_tool`.
    template_options : dict, optional
        More variables of the template, such as ``{"reasoning_effort": "low"}``; ``chat_template`` replaces the template.
    max_tokens, temperature, **kwargs
        As for `generate_text`, without ``parse_special``; reasoning counts as generated tokens. A grammar is for the answer.

    Returns
    -------
    str
        The assistant's answer. Its reasoning is in ``model.last_generation.reasoning``.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an empty list, an unknown role, a message without content, a wrong tool or option.
    GenerationError
        When the model has no chat template, or its template refuses the messages.
    ContextOverflowError
        As for `generate_text`.
    """
    options = ChatOptions(thinking, max_thinking_tokens, tools, template_options)
    chunks = _run(model, _chat_request(model, messages, max_tokens, temperature, kwargs, options))
    return "".join(chunk.text for chunk in chunks if chunk.kind == "answer")


def stream_chat(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    max_tokens: int | None = 100,
    temperature: float = 0.7,
    *,
    thinking: bool | None = None,
    max_thinking_tokens: int | None = None,
    tools: Sequence[Any] | None = None,
    template_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> TextStream:
    """Answer a conversation and yield the answer while it is generated; same arguments as `generate_chat`.

    Reasoning is yielded too, in chunks whose ``kind`` is ``"reasoning"``.
    """
    options = ChatOptions(thinking, max_thinking_tokens, tools, template_options)
    return _stream(model, _chat_request(model, messages, max_tokens, temperature, kwargs, options))


def count_tokens(model: Model, text: str, *, add_special: bool = False, parse_special: bool = False) -> int:
    """Count the tokens of a text.

    Parameters
    ----------
    add_special : bool
        Also count the tokens that the model adds to a text (usually a beginning-of-sequence token).
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


def count_chat_tokens(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    *,
    thinking: bool | None = None,
    tools: Sequence[Any] | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> int:
    """Count the tokens of the prompt that `generate_chat` makes from a conversation, including the template."""
    options = ChatOptions(thinking, None, tools, template_options)
    with check_model(model).vocabulary() as tokenizer:
        return len(chat_prompt(tokenizer, check_messages(messages), options)[0])


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
        return model.compute(lambda job: _logits(model, tokens, job))
    except CancelledError:
        raise GenerationError("this computation was cancelled") from None


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


def token_text(model: Model, token: int) -> str:
    """Return a token as text; part of a character as ``�``."""
    with check_model(model).vocabulary() as tokenizer:
        check_int("token", token, 0, tokenizer.n_vocab - 1)
        return tokenizer.piece(token).decode("utf-8", errors="replace")


def _text_request(
    model: Model, prompt: str, max_tokens: Any, temperature: Any, options: dict[str, Any]
) -> GenerationRequest:
    parse_special = check_flag("parse_special", options.pop("parse_special", False))
    settings = check_sampling(temperature, options)
    limit = check_max_tokens(max_tokens)
    with check_model(model).vocabulary() as tokenizer:
        return _fit(model, tokenizer.prompt_tokens(prompt, parse_special=parse_special), limit, settings, chat=False)


def _chat_request(
    model: Model, messages: Any, max_tokens: Any, temperature: Any, kwargs: dict[str, Any], options: ChatOptions
) -> GenerationRequest:
    settings = check_sampling(temperature, kwargs)
    limit = check_max_tokens(max_tokens)
    checked = check_messages(messages)
    with check_model(model).vocabulary() as tokenizer:
        tokens, thinking = chat_prompt(tokenizer, checked, options, constrained=settings.grammar is not None)
        return _fit(model, tokens, limit, settings, chat=True, thinking=thinking)


def _fit(
    model: Model,
    prompt: list[int],
    max_tokens: int | None,
    settings: SamplingSettings,
    *,
    chat: bool,
    thinking: Thinking | None = None,
) -> GenerationRequest:
    n_ctx = model.n_ctx()
    if len(prompt) + (1 if max_tokens is None else max_tokens) > n_ctx:
        raise ContextOverflowError(len(prompt), max_tokens, n_ctx)
    return GenerationRequest(prompt, n_ctx - len(prompt) if max_tokens is None else max_tokens, settings, chat, thinking)


def _run(model: Model, request: GenerationRequest) -> list[TextChunk]:
    if request.max_tokens == 0:
        return []
    chunks: list[TextChunk] = []
    before = model.last_generation
    try:
        model.run_generation(request, chunks.append)
    except Interrupted:
        report = model.last_generation
        if report is None or report is before:
            raise
        kept = f"interrupted after {report.n_generated} tokens: the text so far is in last_generation.text of the model"
        raise Interrupted(kept) from None
    return chunks


def _stream(model: Model, request: GenerationRequest) -> TextStream:
    if request.max_tokens == 0:
        only = TextChunk("", len(request.prompt), 0, 0.0, 0.0, 0.0, "length")
        return TextStream((chunk for chunk in [only]), lambda: None)
    return TextStream(*model.stream_generation(request))


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
