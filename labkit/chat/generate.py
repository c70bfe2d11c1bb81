"""generate_chat, stream_chat and count_chat_tokens: a conversation, checked -> its prompt -> the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.chat.messages import check_messages
from labkit.chat.options import ChatOptions, chat_prompt
from labkit.engine.generate import fit_request, run_request, stream_request
from labkit.engine.generation import GenerationRequest, TextStream
from labkit.engine.model import Model, check_model
from labkit.engine.sampling_settings import check_max_tokens, check_sampling


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
        What the model may ask for: typed functions or OpenAI's dicts. Its calls are text, and in
        ``model.last_generation.tool_calls`` where the template writes them with JSON arguments; see `choose_tool`.
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
    chunks = run_request(model, _chat_request(model, messages, max_tokens, temperature, kwargs, options))
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
    return stream_request(model, _chat_request(model, messages, max_tokens, temperature, kwargs, options))


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


def _chat_request(
    model: Model, messages: Any, max_tokens: Any, temperature: Any, kwargs: dict[str, Any], options: ChatOptions
) -> GenerationRequest:
    settings = check_sampling(temperature, kwargs)
    limit = check_max_tokens(max_tokens)
    checked = check_messages(messages)
    with check_model(model).vocabulary() as tokenizer:
        tokens, splitter = chat_prompt(tokenizer, checked, options, constrained=settings.grammar is not None)
        return fit_request(model, tokens, limit, settings, splitter)
