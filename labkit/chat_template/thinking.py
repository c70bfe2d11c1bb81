"""How a chat template writes reasoning, found by rendering examples: the marks around it, and the switch for it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from labkit.errors import GenerationError

# A template without any of these words has no reasoning.
_HINT = re.compile("think|thought|reason|channel", re.IGNORECASE)
TAG = r"(?:<[^<>]{1,60}>|\[[^\[\]]{1,60}\]|◁[^◁▷]{1,60}▷)"
# A template that only cuts reasoning from a history names its marks anyway.
_WRITTEN = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|inner_prefix|>", "<|inner_suffix|>"))
# The variables that templates have for it: (name, value for on, value for off); off also needs its text in the template.
_SWITCHES = (
    ("enable_thinking", True, False), ("thinking", True, False), ("enable_reasoning", True, False),
    ("reasoning", True, False), ("thinking_mode", "enabled", "disabled"), ("thinking_option", "on", "off"),
    ("reasoning_effort", "high", "no_think"), ("reasoning_effort", "high", "minimal"), ("thinking_budget", None, 0),
)  # fmt: skip
FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
_QUESTION, _REASONING, _ANSWER, _TOOL = "QQ7 question", "RR7 reason", "AA7 answer", "tool_tt7"
_CALL = {"id": "call00001", "type": "function", "function": {"name": _TOOL, "arguments": {"x": 1}}}

Render = Callable[..., str]


@dataclasses.dataclass(frozen=True)
class ThinkingForm:
    """The marks around reasoning.

    Attributes
    ----------
    begin, end : str
        The text that begins reasoning, and the one that ends it.
    turn : str
        Where reasoning is a message: the text that begins the next one, ``<|start|>assistant``.
    answer : str
        The text that may begin the answer after it, ``<|channel|>final<|message|>``.
    closing : str
        All that a model writes between reasoning and answer.
    in_blocks : str
        The type of the content block that a history's reasoning is written in; empty where it has a field.
    """

    begin: str
    end: str
    turn: str = ""
    answer: str = ""
    closing: str = ""
    in_blocks: str = ""


def find_form(source: str, render: Render) -> ThinkingForm | None:
    """Return how a template writes reasoning; None if it has none.

    ``render(messages, add_generation_prompt, **variables)`` renders it; errors are `GenerationError`.

    References
    ----------
    llama.cpp ``common/chat-diff-analyzer.cpp`` compares renderings in the same way.
    """
    if not _HINT.search(source):
        return None
    on = switches(source, on=True)
    prompt = _tail(_try(render, [_question()], True, **on))
    for block, message in _examples():
        text = _tail(_try(render, [_question(), message], False, **on))
        if _REASONING in text and (form := _read(text, prompt, block)) is not None:
            return form
    return _written(source)


def switches(source: str, *, on: bool) -> dict[str, Any]:
    """Return the template's own variables that turn reasoning on or off, and their values."""
    found: dict[str, Any] = {}
    for name, value, off in _SWITCHES:
        known = re.search(rf"\b{name}\b", source) and (isinstance(off, (bool, int)) or f"{off}" in source)
        if known and name not in found and (value if on else off) is not None:
            found[name] = value if on else off
    return found


def with_reasoning(message: Mapping[str, Any], reasoning: str, form: ThinkingForm | None) -> dict[str, Any]:
    """Return an assistant's message with its reasoning where templates look for it."""
    if form is not None and form.in_blocks:
        block = {"type": form.in_blocks, form.in_blocks: reasoning}
        return {**message, "content": [block, {"type": "text", "text": message.get("content", "")}]}
    return {**message, **dict.fromkeys(FIELDS, reasoning)}


def _question() -> dict[str, Any]:
    return {"role": "user", "content": _QUESTION}


def _examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the ways in which templates want reasoning: fields, with a call of a tool, or blocks of the content."""
    plain = {"role": "assistant", "content": _ANSWER}
    for fields in (FIELDS, *((field,) for field in FIELDS)):
        yield "", {**plain, **dict.fromkeys(fields, _REASONING)}
    for fields, content in itertools.product((FIELDS, *((field,) for field in FIELDS)), ("", None)):
        yield "", {**plain, **dict.fromkeys(fields, _REASONING), "content": content, "tool_calls": [_CALL]}
    yield "thinking", with_reasoning(plain, _REASONING, ThinkingForm("", "", in_blocks="thinking"))


def _try(render: Render, messages: list[dict[str, Any]], prompt: bool, **variables: Any) -> str:
    try:
        return render(messages, add_generation_prompt=prompt, **variables)
    except GenerationError:
        return ""


def _tail(text: str) -> str:
    """Return what a rendered text has behind the question."""
    return text.rpartition(_QUESTION)[2] if _QUESTION in text else ""


def _read(text: str, prompt: str, block: str) -> ThinkingForm | None:
    """Read the marks in a rendered example; ``prompt`` is the text before the model writes."""
    before, _, after = text.partition(_REASONING)
    between = after.partition(_ANSWER)[0] if _ANSWER in after else ""
    begin = _begin(before, prompt)
    end = re.match(rf"\s*({TAG})", after)
    if not begin or end is None:
        return None
    if not between:
        return ThinkingForm(begin, end[1], closing=end[0], in_blocks=block)
    header = prompt.rstrip().removesuffix(begin)
    starts = [match.start() for match in re.finditer(TAG, header)]
    turns = [header[start:].strip() for start in starts if not re.fullmatch(TAG, header[start:].strip())]
    turn = next((turn for turn in turns if turn in between[end.end() :]), "")
    answer = between[end.end() :].partition(turn)[2] if turn else between[end.end() :]
    return ThinkingForm(begin, end[1], turn, answer.strip(), between, block)


def _begin(before: str, prompt: str) -> str:
    """Return the text that begins reasoning: what the model adds to the prompt, or else the prompt's last mark."""
    for longer, shorter in ((before, prompt), (prompt, before)):
        if shorter and longer.startswith(shorter) and longer[len(shorter) :].strip():
            return longer[len(shorter) :].strip()
    for match in reversed(list(re.finditer(TAG, before))):
        mark = before[match.start() :].strip()
        if re.search("['\"{]", mark):  # printed as code
            return ""
        if before.count(mark) == 1:
            return mark
    return ""


def _written(source: str) -> ThinkingForm | None:
    for begin, end in _WRITTEN:
        if end in source:
            answer = "<response>" if "<response></response>" in source else ""
            return ThinkingForm(begin, end, answer=answer, closing=f"\n{end}\n\n{answer}")
    return None
