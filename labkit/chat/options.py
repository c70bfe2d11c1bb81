"""What a chat is asked for besides the messages (thinking, tools, variables of the template), and the prompt of it all."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labkit.chat.prompt import ChatTokenizer
from labkit.chat.thinking import Thinking
from labkit.chat_template.calls import CallForm, read_calls
from labkit.chat_template.thinking import ThinkingForm, switches
from labkit.chat_template.tools import check_tools
from labkit.checks import check_flag, check_int, check_json, one_line, shown
from labkit.engine.generation import Splitter
from labkit.engine.tokenizer import Tokenizer
from labkit.errors import ArgumentError, ArgumentTypeError

_RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")


@dataclasses.dataclass(frozen=True)
class ChatOptions:
    """Arguments of `generate_chat`, as given."""

    thinking: Any = None
    max_thinking_tokens: Any = None
    tools: Any = None
    template_options: Any = None


def chat_prompt(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], options: ChatOptions, *, constrained: bool = False
) -> tuple[list[int], Splitter]:
    """Return the tokens of a checked conversation, and what splits the answer into reasoning and answer."""
    wanted = None if options.thinking is None else check_flag("thinking", options.thinking)
    budget = options.max_thinking_tokens
    if budget is not None:
        budget = check_int("max_thinking_tokens", budget, 0, 2**31 - 1, hint="; None means no limit")
    variables: dict[str, Any] = {} if options.tools is None else {"tools": check_tools(options.tools)}
    if not isinstance(options.template_options, (Mapping, type(None))):
        given = shown(options.template_options)
        raise ArgumentTypeError(f"template_options must be a dict of the template's variables, not {given}")
    more = dict(options.template_options or {})
    chat = ChatTokenizer(tokenizer, more.pop("chat_template", None), for_tools="tools" in variables)
    source, form = chat.template.source, chat.template.thinking
    if wanted and form is None:
        raise ArgumentError("thinking=True, but this model's chat template has no reasoning: leave thinking out")
    if wanted is not None:
        variables |= switches(source, on=wanted)
    variables |= _check_options(source, more)
    tokens, text = chat.encode(messages, **variables)
    splitter = Splitter()
    if wanted is False:
        budget = 0  # also where the template has no switch
    if form is not None:
        opened = _is_opened(form, text, messages[-1]["content"])
        wants = bool(wanted) and budget != 0
        splitter = Thinking(tokenizer, form, opened=opened, budget=budget, constrained=constrained, wanted=wants)
    if "tools" in variables and chat.template.calls is not None:
        names = [tool["function"]["name"] for tool in variables["tools"]]
        splitter.read_calls = _call_reader(tokenizer, chat.template.calls, names, splitter, form)
    return tokens, splitter


def _call_reader(
    tokenizer: Tokenizer, calls: CallForm, names: Sequence[str], splitter: Splitter, form: ThinkingForm | None
) -> Callable[[Sequence[int]], tuple[dict[str, Any], ...]]:
    """Return a function that reads calls from an answer's tokens: marks may be control tokens, which its text lacks."""

    def read(tokens: Sequence[int]) -> tuple[dict[str, Any], ...]:
        pieces = (tokenizer.piece(token) or tokenizer.token_text(token).encode() for token in tokens)
        text = b"".join(pieces).decode("utf-8", errors="replace")
        if form is not None and splitter.reasoning:
            text = text.rpartition(form.end)[2] if form.end in text else ""
        found = read_calls(calls, text, names)
        return tuple({"type": "function", "function": {"name": name, "arguments": given}} for name, given in found)

    return read


def _is_opened(form: ThinkingForm, text: str, last_content: str) -> bool:
    """Return whether the template's text behind the last message begins the reasoning and does not end it."""
    content = last_content.strip()
    tail = text.rpartition(content)[2] if content and content in text else text
    return tail.rfind(form.begin) > tail.rfind(form.end)


def _check_options(source: str, given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if not isinstance(name, str) or name in _RESERVED or not re.search(rf"\b{re.escape(name)}\b", source):
            why = "is labkit's to set" if name in _RESERVED else "is not in this model's chat template"
            raise ArgumentError(
                f"template_options[{one_line(repr(name), 60)}] {why}: read labkit.get_model_info(…).chat_template"
            )
    checked: dict[str, Any] = check_json("template_options", given)
    return checked
