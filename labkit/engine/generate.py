"""generate_text, stream_text and count_tokens: what a caller passes, checked, and the text."""

from __future__ import annotations

from typing import Any

from labkit.checks import check_flag, check_int
from labkit.engine.generation import GenerationRequest, Splitter, TextStream
from labkit.engine.model import Model, check_model
from labkit.engine.results import TextChunk
from labkit.engine.sampling_settings import SamplingSettings, check_max_tokens, check_sampling
from labkit.errors import ContextOverflowError, Interrupted
from labkit.units import counted


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
    return "".join(chunk.text for chunk in run_request(model, _text_request(model, prompt, max_tokens, temperature, kwargs)))


def stream_text(
    model: Model, prompt: str, max_tokens: int | None = 100, temperature: float = 0.7, **kwargs: Any
) -> TextStream:
    """Continue a text and yield it while it is generated; same arguments as `generate_text`.

    Returns
    -------
    TextStream
        An iterator of `TextChunk`; their joined texts are the text of `generate_text`.
    """
    return stream_request(model, _text_request(model, prompt, max_tokens, temperature, kwargs))


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
        return fit_request(model, tokenizer.prompt_tokens(prompt, parse_special=parse_special), limit, settings)


def fit_request(
    model: Model, prompt: list[int], max_tokens: int | None, settings: SamplingSettings, splitter: Splitter | None = None
) -> GenerationRequest:
    """Return a request that fits into the context; ``splitter`` is that of a chat."""
    n_ctx = model.n_ctx()
    if len(prompt) + (1 if max_tokens is None else max_tokens) > n_ctx:
        raise ContextOverflowError(len(prompt), max_tokens, n_ctx)
    limit = n_ctx - len(prompt) if max_tokens is None else max_tokens
    return GenerationRequest(prompt, limit, settings, splitter or Splitter(), is_chat=splitter is not None)


def run_request(model: Model, request: GenerationRequest) -> list[TextChunk]:
    """Generate, and return the chunks; an interrupt says where the text so far is."""
    if request.max_tokens == 0:
        return []
    chunks: list[TextChunk] = []
    before = model.last_generation
    try:
        model.compute(lambda job: model.run_generation(job, request, chunks.append))
    except Interrupted:
        report = model.last_generation
        if report is None or report is before:
            raise
        after = counted(report.n_generated, "token")
        raise Interrupted(f"interrupted after {after}: the text so far is in last_generation.text of the model") from None
    return chunks


def stream_request(model: Model, request: GenerationRequest) -> TextStream:
    """Return a stream that generates when it is read."""
    if request.max_tokens == 0:
        only = TextChunk("", len(request.prompt), 0, 0.0, 0.0, 0.0, "length")
        return TextStream((chunk for chunk in [only]), lambda: None)
    return TextStream(*model.stream_compute(lambda job: model.run_generation(job, request, job.items.put)))
