"""choose_tool: which tool a model would call, and with which arguments."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from labkit.chat.generate import generate_chat
from labkit.chat.messages import check_messages
from labkit.chat.prompt import ChatTokenizer
from labkit.chat_template.tools import call_format, call_schema, check_tools, describe, in_words, with_instructions
from labkit.checks import check_flag
from labkit.engine.model import Model, check_model
from labkit.engine.tokenizer import Tokenizer
from labkit.errors import ArgumentError, GenerationError
from labkit.records import Record
from labkit.units import counted

_ANSWER = re.compile(r'\{ ?"tool": ?null, ?"answer": ?"((?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)')


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ToolChoice(Record):
    """What a model wants to do; nothing was executed.

    Attributes
    ----------
    name : str or None
        The tool, or None for an answer without one.
    arguments : dict
        Its arguments, parsed; they match the tool's schema, but need not be true.
    text : str
        The answer where there is no tool; otherwise the call as the model wrote it, JSON.
    """

    name: str | None
    arguments: dict[str, Any]
    text: str


def choose_tool(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any],
    *,
    max_tokens: int | None = 200,
    temperature: float = 0.0,
    must_call: bool = False,
    **kwargs: Any,
) -> ToolChoice:
    """Let a model choose a tool and its arguments; a grammar keeps the choice valid for every model.

    Parameters
    ----------
    messages : list of dict
        As for `generate_chat`; earlier calls and results included.
    tools : list
        Typed functions (their signature and docstring are the description), or OpenAI's dicts with a JSON schema.
    must_call : bool
        Whether the model has to choose a tool; otherwise it may answer.
    max_tokens, temperature, **kwargs
        As for `generate_chat`, without ``grammar``, ``json_schema`` and ``stop``.

    Returns
    -------
    ToolChoice
        The name and the arguments. Calling the tool is left to you: check the arguments first, they come from a text.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For a tool without a name or types, two tools of one name, and as for `generate_chat`.
    GenerationError
        When ``max_tokens`` are too few for a call; an answer in words is cut off there.

    Examples
    --------
    >>> import labkit
    >>> def add(a: int, b: int) -> int:
    ...     "Add two numbers."
    ...     return a + b
    >>> question = [{"role": "user", "content": "What is 17 plus 25?"}]
    >>> with labkit.load_model(n_ctx=512) as model:
    ...     choice = labkit.choose_tool(model, question, [add], must_call=True)
    >>> choice.name, sorted(choice.arguments)
    ('add', ['a', 'b'])
    """
    for name in ("grammar", "json_schema", "stop"):
        if kwargs.get(name) is not None:
            raise ArgumentError(f"choose_tool makes the grammar itself: leave {name} out, or use generate_chat")
    checked = check_tools(tools)
    must = check_flag("must_call", must_call)
    schema = call_schema(checked, must_call=must)
    with check_model(model).vocabulary() as tokenizer:
        asked = ask_for_choice(tokenizer, check_messages(messages), checked, must_call=must)
    answer = generate_chat(model, asked, max_tokens, temperature, json_schema=schema, **kwargs)
    return read_choice(answer)


def ask_for_choice(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, must_call: bool
) -> list[dict[str, Any]]:
    """Return checked messages that describe checked tools and ask for the form of `call_schema`.

    It does not use the template's own tools: they would ask for calls in another form than the grammar's.
    """
    text = f"{describe(tools)}\n{call_format(must_call=must_call)}"
    return with_instructions(in_words(messages), text, system=ChatTokenizer(tokenizer).template.has_system)


def read_choice(answer: str) -> ToolChoice:
    """Return the choice that a text in the form of `call_schema` makes; an answer in words may be cut off."""
    if words := _ANSWER.match(answer):
        return ToolChoice(None, {}, json.loads(f'"{words[1]}"', strict=False))
    try:
        said = json.loads(answer)
    except ValueError:
        end = f"after {counted(len(answer), 'character')}: raise max_tokens, or bound the schema's texts"
        raise GenerationError(f"the choice of a tool was cut off {end}") from None
    return ToolChoice(said["tool"], said["arguments"], answer)
