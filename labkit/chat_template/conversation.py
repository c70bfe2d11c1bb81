"""A conversation as a chat template renders it: which message each piece comes from, and that no message is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.errors import GenerationError

Message = Mapping[str, Any]
# The marks around an assistant's reasoning, as <think>, </think>, [THINK], <|END_THINKING|>, <seed:think>.
REASONING = re.compile(r"[<\[◁]\|?/?[\w:]*?(?:think|thought|reason)[\w:]*\|?[>\]▷]", re.IGNORECASE)
_MAX_MARKS_INSIDE = 3


class TemplateError(GenerationError):
    """The template itself fails on these messages; in another shape it may not."""


@dataclass(frozen=True)
class Conversation:
    """Messages in a shape that the template reads completely.

    Attributes
    ----------
    text : str
        The rendered text.
    parts : list of (int or None, str), or None
        The text in pieces: the message that each is from, or None for the template's own; None where it rewrites messages.
    """

    messages: list[dict[str, Any]]
    text: str
    parts: list[tuple[int | None, str]] | None
    render: Callable[[list[dict[str, Any]]], str]

    def render_with(self, change: Callable[[int, str], str]) -> str:
        """Render again with changed texts (index of the message, text)."""
        return self.render(_changed(self.messages, change))


def lay_out(render: Callable[[list[dict[str, Any]]], str], messages: Sequence[Message]) -> Conversation:
    """Render messages as they are; those that get lost as typed parts (or parts as plain text); all; all others.

    Some templates read ``message.content[0].text`` and nothing else, others only plain text, others one of them by role.
    """
    shape = [dict(message) for message in messages]
    tried: list[list[dict[str, Any]]] = []
    lost: list[int] = []
    failure: TemplateError | None = None
    every = range(len(messages))
    for changes in ("none", "lost", "all", "others"):
        changed = {"none": [], "lost": lost, "all": every, "others": [*{*every} - {*lost}]}[changes]
        shape = [_other_shape(message) if index in changed else dict(message) for index, message in enumerate(messages)]
        if shape in tried:
            continue
        tried.append(shape)
        try:
            text = render(shape)
        except TemplateError as error:
            failure = failure or (None if lost else error)
            continue
        parts, missing = _find(render, shape, text)
        if not missing:
            return Conversation(shape, text, parts, render)
        lost = lost or missing
    if failure is not None:
        raise GenerationError(str(failure)) from None
    raise GenerationError(
        f"this model's chat template leaves out messages[{lost[0]}] ({messages[lost[0]].get('role')}) or a part of it: put "
        "its text into another message, or use generate_text"
    )


def _find(
    render: Callable[[list[dict[str, Any]]], str], messages: list[dict[str, Any]], text: str
) -> tuple[list[tuple[int | None, str]] | None, list[int]]:
    """Return the pieces of the rendered text, and the messages that are not in it."""
    free = _free_characters(text, messages)
    marks: dict[str, tuple[int, str]] = {}

    def replace(index: int, content: str) -> str:
        mark = next(free)
        marks[mark] = (index, content)
        return mark

    try:
        marked = render(_changed(messages, replace))
    except TemplateError:
        marked = ""
    pieces = re.split("([" + "".join(marks) + "])", marked) if marks else [marked]
    parts: list[tuple[int | None, str]] = [marks.get(piece, (None, piece)) for piece in pieces]
    if "".join(piece for _, piece in parts) == text:
        seen = {index for index, _ in parts}
        lost = [index for mark, (index, content) in marks.items() if content.strip() and not _is_in(mark, marked)]
        return parts, [index for index in lost if index not in seen or _is_list(messages[index])]
    return None, _missing(render, messages, text, free)


def _missing(
    render: Callable[[list[dict[str, Any]]], str], messages: list[dict[str, Any]], text: str, free: Iterator[str]
) -> list[int]:
    """Return the messages that are lost where the template rewrites some: characters added to each are looked for."""
    needed: list[tuple[int, str, str]] = []

    def add(index: int, content: str) -> str:
        role = messages[index].get("role")
        begin = len(content) - len(_answer(content)) if role == "assistant" else 0
        inside = content[begin:].strip()
        if not inside:
            return content
        places = [content.rindex(inside) + len(inside)]
        if role != "assistant":  # the beginning of an answer is its reasoning, which templates cut
            start = content.index(inside)
            words = [start + match.end() for match in re.finditer(r"\s+", inside)]
            places += [*words[:_MAX_MARKS_INSIDE], start]
        for place in sorted(places, reverse=True):
            mark = next(free)
            needed.append((index, mark, content))
            content = content[:place] + mark + content[place:]
        return content

    try:
        probed = render(_changed(messages, add))
    except TemplateError:  # it looks at the messages' texts: they must be in the text themselves
        shown = _squeezed(text)
        return [index for index, _, content in needed if _squeezed(_answer(content)) not in shown]
    return [index for index, mark, _ in needed if not _is_in(mark, probed)]


def _answer(content: str) -> str:
    """Return an assistant's message behind its reasoning."""
    marks = list(REASONING.finditer(content))
    if not marks:
        return content
    closed = re.search("/|end", marks[-1][0], re.IGNORECASE)
    return content[marks[-1].end() :] if closed else ""


def _is_in(mark: str, text: str) -> bool:
    """Return whether a text has a mark, also escaped as in JSON, but not as a part of a list printed as code."""
    if mark not in text:
        return json.dumps(mark)[1:-1] in text
    return not re.search(rf"""['"]text['"]: ['"][^'"]*{mark}""", text)


def _is_list(message: Message) -> bool:
    return isinstance(message.get("content"), list)


def _squeezed(text: str) -> str:
    return "".join(text.split()).casefold()


def _changed(messages: Iterable[Message], change: Callable[[int, str], str]) -> list[dict[str, Any]]:
    """Return the messages with each text changed by a function."""

    def content(index: int, given: Any) -> Any:
        if isinstance(given, str):
            return change(index, given)
        if not isinstance(given, list):
            return given
        return [{**part, "text": change(index, part["text"])} if _is_text(part) else part for part in given]

    return [
        {**m, "content": content(index, m["content"])} if "content" in m else dict(m) for index, m in enumerate(messages)
    ]


def texts_of(messages: Iterable[Message]) -> list[str]:
    """Return the messages' texts."""
    found: list[str] = []
    _changed(messages, lambda _, text: found.append(text) or text)  # type: ignore[func-returns-value]
    return found


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)


def _other_shape(message: Message) -> dict[str, Any]:
    """Return a message with typed parts instead of plain text, or the reverse."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": [{"type": "text", "text": content}]}
    if isinstance(content, list) and all(map(_is_text, content)):
        return {**message, "content": "\n".join(part["text"] for part in content)}
    return dict(message)


def _free_characters(text: str, messages: Sequence[Message]) -> Iterator[str]:
    """Yield private-use characters that neither the text nor the messages have."""
    used = {*text, *json.dumps(messages, ensure_ascii=False, default=str)}
    return (char for char in map(chr, (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))) if char not in used)
