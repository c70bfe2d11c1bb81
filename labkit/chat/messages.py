"""A conversation as a caller writes it, checked: roles, texts, calls of tools and their results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from labkit.checks import check_items, check_text, nearest, one_line, shown
from labkit.engine.tokenizer import ROLES
from labkit.errors import ArgumentError, ArgumentTypeError

_EXAMPLE = 'write [{"role": "user", "content": "Hello"}]'
_CALL = '{"id": "call1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}'
_FIELDS = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "tool_calls", "reasoning_content"),
    "tool": ("role", "content", "tool_call_id", "name"),
}


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """Return the messages as plain dicts; an error names the wrong one and shows the format.

    Calls get an ``id`` and their ``arguments`` as a dict; a tool's result gets ``tool_call_id`` and ``name`` of its call.
    """
    given = check_items("messages", messages, "dicts", hint=f": {_EXAMPLE}")
    if not given:
        raise ArgumentError(f"messages is empty: {_EXAMPLE}")
    checked: list[dict[str, Any]] = []
    waiting: dict[str, str] = {}  # calls without a result: id -> name
    n_calls = 0
    for index, message in enumerate(given):
        one = _check_message(index, message)
        if one["role"] == "tool":
            _match(index, one, waiting)
        for call in one.get("tool_calls", ()):
            n_calls += 1
            call["id"] = call["id"] or f"call{n_calls:05}"  # Mistral's templates want nine letters and digits
            waiting[call["id"]] = call["function"]["name"]
        checked.append(one)
    return checked


def _check_message(index: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ArgumentTypeError(f"messages[{index}] must be a dict, not {type(message).__name__}: {_EXAMPLE}")
    calls = message.get("tool_calls")
    for key in ("role", "content"):
        if key not in message and not (key == "content" and calls):
            raise ArgumentError(f"messages[{index}] has no {key!r}: {_EXAMPLE}")
    role, content = message["role"], message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise ArgumentError(f"messages[{index}] has the role {shown(role)}: roles are {', '.join(ROLES)}")
    unknown = [str(key) for key in message if key not in _FIELDS[role]]
    if unknown:
        near = nearest(unknown[0], _FIELDS[role])
        known = f"did you mean {near!r}?" if near else "known are " + ", ".join(map(repr, _FIELDS[role]))
        raise ArgumentError(f"messages[{index}] ({role}) has {one_line(repr(unknown[0]), 60)}: {known}")
    content = "" if content is None and calls else _text_of(index, content)
    check_text(f"messages[{index}]['content']", content)
    checked = {"role": role, "content": content}
    for key in ("reasoning_content", "tool_call_id", "name"):
        if message.get(key) is not None:
            check_text(f"messages[{index}][{key!r}]", message[key])
            checked[key] = message[key]
    if calls:
        checked["tool_calls"] = _check_calls(index, calls)
    return checked


def _text_of(index: int, content: Any) -> Any:
    """Return a content that is a list of typed parts, as OpenAI's clients write it, as one text."""
    if not isinstance(content, (list, tuple)):
        return content
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise ArgumentError(f"messages[{index}] has a part of type {shown(kind)}: only text is supported")
    return "".join(part["text"] for part in content)


def _check_calls(index: int, calls: Any) -> list[dict[str, Any]]:
    name = f"messages[{index}]['tool_calls']"
    given = check_items(name, calls, "calls", hint=f": write [{_CALL}]")
    return [_check_call(f"{name}[{number}]", call) for number, call in enumerate(given)]


def _check_call(what: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ArgumentError(f"{what} names no function: write {_CALL}")
    arguments = function.get("arguments", {})
    try:
        arguments = json.loads(arguments or "{}") if isinstance(arguments, str) else json.loads(json.dumps(arguments))
    except (TypeError, ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ArgumentError(f"{what} needs arguments as a dict or its JSON text, not {shown(function['arguments'])}")
    check_text(f"{what}: the name", function["name"])
    given = call.get("id")
    if given is not None:
        check_text(f"{what}['id']", given)
    return {"id": given or "", "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _match(index: int, message: dict[str, Any], waiting: dict[str, str]) -> None:
    """Give a result of a tool the id and the name of its call."""
    given = message.get("tool_call_id") or next(iter(waiting), None)
    if given not in waiting:
        why = "no earlier assistant message has a call in 'tool_calls'" if given is None else f"no call has the id {given!r}"
        raise ArgumentError(f"messages[{index}] has the role 'tool', but {why} that waits for a result")
    name = waiting.pop(given)
    message.update(tool_call_id=given, name=message.get("name") or name)
