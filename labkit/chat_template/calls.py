"""How a chat template writes a call of a tool, found by rendering an example, and the calls in a model's answer."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from labkit.errors import GenerationError

_QUESTION, _ID, _ARGUMENTS = "QQ7 question", "call00001", {"key_kk7": 1}
_NAMES = ("tool_aa7", "tool_bb7")
_VALUE = json.JSONDecoder()


@dataclasses.dataclass(frozen=True)
class CallForm:
    """How a call is written: an object with these two keys, or a name and an object with texts before and between them.

    Attributes
    ----------
    mark : str
        The mark before calls; empty where an answer that is an object is a call.
    name, arguments : str
        The object's keys; empty where the name is outside.
    between : str
        The text between name and arguments, where the name is outside.
    """

    mark: str
    name: str = ""
    arguments: str = ""
    between: str = ""


def find_call_form(render: Callable[..., str]) -> CallForm | None:
    """Return how a template writes calls with JSON arguments; None for another form, or where it writes none.

    ``render(messages, add_generation_prompt, tools=…)`` renders it; errors are `GenerationError`.
    """
    forms = {_form_of(*_example(render, name), name) for name in _NAMES}
    return forms.pop() if len(forms) == 1 else None


def read_calls(form: CallForm, text: str, names: Collection[str]) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return the complete calls of known tools in an answer, each with its name and its arguments.

    Examples
    --------
    >>> form = CallForm("<tool_call>", "name", "arguments")
    >>> read_calls(form, 'Well: <tool_call> {"name": "add", "arguments": {"a": 1}} </tool_call>', ["add"])
    (('add', {'a': 1}),)
    """
    found = _in_objects(form, text) if form.name else _outside(form, text)
    return tuple((name, given) for name, given in found if name in names and isinstance(given, dict))


def _in_objects(form: CallForm, text: str) -> Iterator[tuple[Any, Any]]:
    for match in re.finditer(rf"{re.escape(form.mark)}\s*(?=[\[{{])" if form.mark else r"\A\s*(?=\{)", text):
        at = match.end()
        while text[at : at + 1] in ("[", "{"):  # some put several objects behind one mark
            value, end = _json_at(text, at)
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict):
                    yield one.get(form.name), one.get(form.arguments)
            at = end + len(text[end:]) - len(text[end:].lstrip(", \n")) if end > at else len(text)


def _outside(form: CallForm, text: str) -> Iterator[tuple[Any, Any]]:
    between = r"\s*".join(map(re.escape, form.between.split()))
    for match in re.finditer(rf"{re.escape(form.mark)}\s*([\w.-]+?)\s*{between}\s*(?=\{{)", text):
        yield match[1], _json_at(text, match.end())[0]


def _json_at(text: str, place: int) -> tuple[Any, int]:
    try:
        return _VALUE.raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, place


def _example(render: Callable[..., str], name: str) -> tuple[str, str]:
    """Return what a template writes behind a question: before an answer, and with a call as the answer."""
    user = {"role": "user", "content": _QUESTION}
    tools = [{"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object"}}}]
    for arguments in (_ARGUMENTS, json.dumps(_ARGUMENTS)):
        call = {"id": _ID, "type": "function", "function": {"name": name, "arguments": arguments}}
        said = {"role": "assistant", "content": "", "tool_calls": [call]}
        try:
            texts = [render([user, *more], add_generation_prompt=not more, tools=tools) for more in ([], [said])]
        except GenerationError:
            continue
        before, after = (text.rpartition(_QUESTION)[2] for text in texts)
        if name in after:
            return before, after
    return "", ""


def _form_of(prompt: str, text: str, name: str) -> CallForm | None:
    said = text[len(_common(prompt, text)) :]
    head, _, rest = said.partition(name)
    mark = ["", *re.findall(_MARK, head)][-1]
    for at in range(len(head)):  # the whole call as an object
        value, end = _json_at(said, at) if head[at] == "{" else (None, 0)
        if isinstance(value, dict) and end > len(head):
            keys = {key for key, one in value.items() if one == name}, {k for k, one in value.items() if one == _ARGUMENTS}
            plain = not head[:at].replace(mark, "").strip("[ \n") if not mark else head[:at].rstrip("[ \n").endswith(mark)
            return CallForm(mark, *(key.pop() for key in keys)) if all(len(key) == 1 for key in keys) and plain else None
    between, brace, _ = rest.partition("{")
    if not brace or _json_at(said, len(head) + len(name) + len(between))[0] != _ARGUMENTS or re.search(r"\d", between):
        return None
    mark = head[max(head.rfind(mark), 0) :] if mark else head[head.rfind("<") :] if "<" in head else ""
    return CallForm(mark.strip(), between=between) if mark.strip() and between.strip() else None


def _common(first: str, second: str) -> str:
    """Return the beginning that two texts have in common, without a part of a mark."""
    return re.sub(r"[<\[][^>\]]*\Z", "", os.path.commonprefix([first, second]))  # noqa: RUF071  # texts, not paths


_MARK = r"<[^<>\s]{1,60}>|\[[A-Z_]{1,60}\]"
