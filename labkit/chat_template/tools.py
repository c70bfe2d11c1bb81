"""Tools: functions and JSON schemas in OpenAI's form, and how a conversation with them is written for a template without."""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labkit.checks import check_items, check_json, one_line, shown
from labkit.errors import ArgumentError, ArgumentTypeError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# A parameter in a docstring: "name : type" and the next line, "name: text" or "name (type): text".
_DESCRIPTION = r"^[ \t]*{}[ \t]*(?:\([^)\n]*\))?:[ \t]*(?:[\w\[\], |]+\n[ \t]+)?(\S.*)$"
_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable)
_COMBINING = {"$ref", "allOf", "anyOf", "oneOf"}
_UNIONS = (typing.Union, getattr(types, "UnionType", typing.Union))
_EXAMPLE = "write {'type': 'function', 'function': {'name': …, 'description': …, 'parameters': {…}}}, or pass a function"


def check_tools(tools: Any) -> list[dict[str, Any]]:
    """Return tools in OpenAI's form; typed Python functions and bare ``{"name", "parameters"}`` are accepted.

    Examples
    --------
    >>> def add(a: int, b: int = 0) -> int:
    ...     "Add two numbers."
    >>> check_tools([add])[0]["function"]["parameters"]["required"]
    ['a']
    """
    given = check_items("tools", tools, "functions or dicts", hint=f": {_EXAMPLE}")
    if not given:
        raise ArgumentTypeError(f"tools must be a list of at least one function or dict: {_EXAMPLE}")
    checked = [_of_function(tool) if callable(tool) else _of_dict(index, tool) for index, tool in enumerate(given)]
    names = [tool["function"]["name"] for tool in checked]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"two tools are named {twice!r}: rename one")
    return checked


def _of_dict(index: int, tool: Any) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        raise ArgumentTypeError(f"tools[{index}] is {shown(tool)}: {_EXAMPLE}")
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArgumentError(
            f"tools[{index}] needs a name of letters, digits, '_', '-' or '.', not {shown(name)}: {_EXAMPLE}"
        )
    parameters = {"type": "object", "properties": {}} if parameters is None else parameters
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise ArgumentTypeError(f"tool {name!r}: parameters must be a JSON schema of an object, not {shown(parameters)}")
    described = {"name": name, "description": str(function.get("description") or ""), "parameters": parameters}
    return {"type": "function", "function": check_json(f"tool {name!r}", described)}


def _of_function(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the schema of a typed function, from its signature and docstring."""
    name = getattr(function, "__name__", "")
    if not _NAME.fullmatch(name):
        raise ArgumentError(f"a tool needs a name, and {shown(function)} has none: use def")
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise ArgumentTypeError(f"the parameters of tool {name!r} cannot be read ({one_line(error, 100)})") from None
    about = inspect.getdoc(function) or ""
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}  # of classes within classes
    required: list[str] = []
    for key, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ArgumentTypeError(f"tool {name!r} has *{key}: a tool needs named parameters")
        if key not in hints:
            raise ArgumentTypeError(f"tool {name!r}: parameter {key!r} has no type: write {key}: str, or another type")
        properties[key] = _schema(f"tool {name!r}: parameter {key!r}", hints[key], definitions)
        if said := re.search(_DESCRIPTION.format(re.escape(key)), about, re.MULTILINE):
            properties[key]["description"] = said[1].strip()
        if parameter.default is parameter.empty:
            required.append(key)
    parameters = {"type": "object", "properties": properties, "required": required}
    parameters |= {"$defs": definitions} if definitions else {}
    head = " ".join(about.split("\n\n")[0].split())
    return {"type": "function", "function": {"name": name, "description": head, "parameters": parameters}}


def _schema(what: str, hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a type; what its references lead to goes into ``definitions``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin in _UNIONS:
        return {"anyOf": [_schema(what, one, definitions) for one in inner]}
    if hint in _LISTS or origin in _LISTS:
        return {"type": "array", **({"items": _schema(what, inner[0], definitions)} if inner else {})}
    if hint is dict or (origin is dict and inner[:1] in ((), (str,))):
        return {"type": "object", **({"additionalProperties": _schema(what, inner[1], definitions)} if inner else {})}
    if origin is typing.Annotated:
        with contextlib.suppress(ArgumentTypeError):  # pydantic knows its own Field(ge=1)
            return _class_schema(what, hint, definitions)
        return _schema(what, inner[0], definitions)
    return {"type": _SIMPLE[hint]} if hint in _SIMPLE else _class_schema(what, hint, definitions)


def _class_schema(what: str, hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a class or another type, as pydantic writes it."""
    try:
        from pydantic import TypeAdapter

        schema: dict[str, Any] = TypeAdapter(hint).json_schema()
    except Exception:  # not installed, or no JSON can be an object of this type
        known = "str, int, float, bool, list, dict, Literal, Optional, or with pydantic installed a class that it knows"
        raise ArgumentTypeError(f"{what} has the type {one_line(hint, 60)}: use {known}") from None
    for name, definition in schema.pop("$defs", {}).items():
        if definitions.setdefault(name, definition) != definition:
            raise ArgumentError(f"{what} needs a second class named {name!r}: rename one")
    return schema


def call_schema(tools: Sequence[Mapping[str, Any]], *, must_call: bool = False) -> dict[str, Any]:
    """Return the JSON schema of an answer: ``{"tool": name, "arguments": {…}}``, or ``{"tool": null, "answer": text}``."""
    choices: list[dict[str, Any]] = []
    for tool in tools:
        root = f"#/anyOf/{len(choices)}/properties/arguments"
        given = _moved(tool["function"]["parameters"], root)
        closed = {} if _COMBINING & given.keys() else {"additionalProperties": False}  # others' properties are not seen
        arguments = {"type": "object", **closed, **given}
        choices.append(_object(tool={"const": tool["function"]["name"]}, arguments=arguments))
    if not must_call:
        choices.append(_object(tool={"const": None}, answer={"type": "string"}))
    return {"anyOf": choices}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _moved(schema: Any, root: str) -> Any:
    """Return a schema whose references are those of its new place."""
    if isinstance(schema, list):
        return [_moved(one, root) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items()}
    if isinstance(reference := moved.get("$ref"), str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved


def call_format(*, must_call: bool = False) -> str:
    """Return the sentence that asks for the form of `call_schema`."""
    call = 'Call a tool by answering with JSON: {"tool": "name", "arguments": {...}}.'
    return call if must_call else f'{call} If no tool helps, answer with {{"tool": null, "answer": "your answer"}}.'


def describe(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return the tools as a text for a prompt: one line each, with a schema."""
    lines = []
    for tool in tools:
        function = tool["function"]
        about = f": {function['description']}" if function["description"] else ""
        lines.append(f"- {function['name']}{about} Arguments: {json.dumps(function['parameters'], ensure_ascii=False)}")
    return "You can use these tools:\n" + "\n".join(lines)


def with_instructions(messages: Sequence[Mapping[str, Any]], text: str, *, system: bool = True) -> list[dict[str, Any]]:
    """Return the messages with a text added to the system message, or to the first other one."""
    changed = [dict(message) for message in messages]
    if changed[0]["role"] == "system":
        changed[0]["content"] = f"{changed[0]['content']}\n\n{text}".strip()
    elif system:
        changed.insert(0, {"role": "system", "content": text})
    else:
        first = next((message for message in changed if message["role"] == "user"), changed[0])
        first["content"] = f"{text}\n\n{first['content']}"
    return changed


def in_words(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a conversation without roles and fields of tools: calls as an assistant's JSON, results as a user's message."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            result = f"Result of {message['name']}: {message['content']}"
            if plain and plain[-1].get("is_result"):
                plain[-1]["content"] += f"\n{result}"
            else:
                plain.append({"role": "user", "content": result, "is_result": True})
            continue
        calls = [call["function"] for call in message.get("tool_calls", ())]
        said = [json.dumps({"tool": one["name"], "arguments": one["arguments"]}, ensure_ascii=False) for one in calls]
        content = "\n".join(filter(None, (message["content"], *said)))
        plain.append({**{key: value for key, value in message.items() if key != "tool_calls"}, "content": content})
    return [{key: value for key, value in message.items() if key != "is_result"} for message in plain]
