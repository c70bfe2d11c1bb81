"""Tools: schemas from functions, conversations with calls and results, and choices that always follow the schema."""

from __future__ import annotations

import json
import typing
from typing import Any, Literal, Optional

import jsonschema
import pytest

import labkit
from labkit.chat.messages import check_messages
from labkit.chat.tool_choice import read_choice
from labkit.chat_template.render import ChatTemplate
from labkit.chat_template.tools import call_schema, check_tools
from labkit.errors import ArgumentError, ArgumentTypeError, GenerationError
from tests.tiny_models import CHATML, write_tiny_model


def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C", tags: Optional[list[str]] = None) -> str:  # noqa: UP045
    """Forecast the weather
    of a city.

    Parameters
    ----------
    city : str
        The city's name.
    days : int
        How many days.
    """  # noqa: D205  # a first paragraph of two lines
    raise AssertionError("a tool is never executed")


def add(a: float, b: float) -> float:
    """Add two numbers.

    Args:
        a: the first one
        b (float): the other one
    """
    raise AssertionError("a tool is never executed")


ASK = [{"role": "user", "content": "What is 1 + 2?"}]
CALL = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
TALK = [*ASK, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "3.0"}]
KNOWS = (
    "{% if tools %}{{ 'TOOLS ' + tools | tojson + '\n' }}{% endif %}{% for m in messages %}{{ m.role + ': ' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ ' CALL ' + c.function.name + ' ' + c.function.arguments | tojson }}{% endfor %}"
    "{{ '\n' }}{% endfor %}"
)
AS_TEXT = KNOWS.replace("c.function.arguments | tojson", "c.function.arguments")
NO_SYSTEM = CHATML.replace(
    "{% for", "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for", 1
)


def test_a_function_becomes_a_schema() -> None:
    """Name, types, defaults, description and the parameters' lines of the docstring are in the schema."""
    (made,) = check_tools([weather])
    assert made["function"]["name"] == "weather"
    assert made["function"]["description"] == "Forecast the weather of a city."
    parameters = made["function"]["parameters"]
    assert parameters["required"] == ["city"]
    assert parameters["properties"] == {
        "city": {"type": "string", "description": "The city's name."},
        "days": {"type": "integer", "description": "How many days."},
        "unit": {"enum": ["C", "F"]},
        "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
    }
    described = check_tools([add])[0]["function"]["parameters"]["properties"]
    assert described["b"] == {"type": "number", "description": "the other one"}


def test_a_schema_is_taken_as_it_is() -> None:
    """OpenAI's form, its inner part alone, and a tool without parameters are the same tool."""
    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}}
    inner = {"name": "f", "description": "d", "parameters": parameters}
    assert check_tools([{"type": "function", "function": inner}]) == check_tools([inner])
    assert check_tools([{"name": "g"}])[0]["function"]["parameters"] == {"type": "object", "properties": {}}


def untyped(a) -> None:  # type: ignore[no-untyped-def]
    """Have a parameter without a type."""


def many(*numbers: int) -> None:
    """Have any number of parameters."""


def strange(a: complex) -> None:
    """Have a type that JSON lacks."""


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([untyped], "parameter 'a' has no type"), ([many], r"has \*numbers"), ([strange], "has the type"),
        ([lambda: 1], "needs a name"), ([add, add], "two tools are named 'add'"), ([{"parameters": {}}], "needs a name"),
        ([7], "write {'type': 'function'"), ([], "must be a list"), ({}, "must be a list"),
        ([{"name": "f", "parameters": {"type": "string"}}], "JSON schema of an object"),
    ],
)  # fmt: skip
def test_wrong_tools_are_one_line(tools: Any, message: str) -> None:
    """What is wrong with a tool is said in one line."""
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message) as caught:
        check_tools(tools)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "tool", "content": "x"}, "no earlier assistant message"),
        ({"role": "assistant", "tool_calls": [{}]}, "names no function"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "needs arguments"),
        ({"role": "user", "content": "x", "tool_calls": []}, "has 'tool_calls'"),
    ],
)
def test_wrong_messages_are_one_line(message: dict[str, Any], expected: str) -> None:
    """A result without a call, and a call without a function, are refused."""
    with pytest.raises(ArgumentError, match=expected):
        check_messages([*ASK, message])
    with pytest.raises(ArgumentError, match="no call has the id 'other'"):
        check_messages([*TALK[:2], {"role": "tool", "content": "3", "tool_call_id": "other"}])


def test_results_find_their_calls() -> None:
    """Results without an id belong to the calls in order; arguments may be JSON text."""
    calls = [CALL, {"id": "mine", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]
    talk = [*ASK, {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "rain", "tool_call_id": "mine"}, {"role": "tool", "content": "3"}]  # fmt: skip
    checked = check_messages(talk)
    assert [one["name"] for one in checked[2:]] == ["weather", "add"]
    assert checked[1]["tool_calls"][1]["function"]["arguments"] == {"city": "Oslo"}
    assert checked[3]["tool_call_id"] == checked[1]["tool_calls"][0]["id"] != ""


@pytest.mark.parametrize("source", [KNOWS, AS_TEXT])
def test_templates_that_know_tools_get_them(source: str) -> None:
    """Tools, calls and results are in the template's own form, with arguments as a dict or as text."""
    text = ChatTemplate(source).lay_out(check_messages(TALK), tools=check_tools([add])).text
    assert text.startswith('TOOLS [{"type": "function", "function": {"name": "add"')
    assert 'assistant:  CALL add {"a": 1, "b": 2}\ntool: 3.0\n' in text


@pytest.mark.parametrize("source", [CHATML, NO_SYSTEM])
def test_other_templates_get_tools_in_words(source: str) -> None:
    """Where a template leaves tools or calls out, they are in its texts: the system message, or the user's."""
    messages = check_messages(TALK)
    text = ChatTemplate(source).lay_out(messages, tools=check_tools([add])).text
    assert ("<|im_start|>system\nYou can use these tools:\n- add: Add two numbers." in text) == (source == CHATML)
    assert '<|im_start|>assistant\n{"tool": "add", "arguments": {"a": 1, "b": 2}}<|im_end|>' in text
    assert "<|im_start|>user\nResult of add: 3.0<|im_end|>" in text


def test_the_schema_of_a_choice_keeps_references() -> None:
    """A tool's own ``$defs`` are found where its schema is put."""
    parameters = {"$defs": {"P": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/P"}}, "required": ["x"]}
    schema = call_schema(check_tools([add, {"name": "f", "parameters": {"type": "object", **parameters}}]))
    jsonschema.validate({"tool": "f", "arguments": {"x": 1}}, schema)
    for wrong in (
        {"tool": "f", "arguments": {"x": "1"}},
        {"tool": "g", "arguments": {}},
        {"tool": "add", "arguments": {"a": 1}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.fixture(scope="module")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> typing.Iterator[labkit.Model]:
    """Load a model whose text means nothing."""
    with labkit.load_model(write_tiny_model(tmp_path_factory.mktemp("tools") / "m.gguf"), n_ctx=2048, n_threads=1) as model:
        yield model


def test_every_choice_follows_its_schema(babbler: labkit.Model) -> None:
    """Even a model of random weights chooses an existing tool with arguments of the right types."""
    bounded = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "on": {"type": "boolean"}},
        "required": ["n", "on"],
    }
    tools = [{"name": "switch", "parameters": bounded}, {"name": "nothing"}]
    schema = call_schema(check_tools(tools), must_call=True)
    names = set()
    for seed in range(12):
        choice = labkit.choose_tool(babbler, ASK, tools, must_call=True, temperature=2.0, seed=seed)
        jsonschema.validate(json.loads(choice.text), schema)
        assert json.loads(choice.text) == {"tool": choice.name, "arguments": choice.arguments}
        names.add(choice.name)
    assert names == {"switch", "nothing"}


def test_a_choice_may_be_an_answer(babbler: labkit.Model) -> None:
    """Without a tool the text is the answer; one that was cut off is an error that says what to raise."""
    choice = read_choice('{"tool": null, "answer": "Hi\\n"}')
    assert (choice.name, choice.arguments, choice.text) == (None, {}, "Hi\n")
    cut = {
        '{"tool":null,"answer":"': "",
        '{ "tool": null, "answer": "a\\"b\\u00e9 \\u00': 'a"bé ',
        '{"tool": null, "answer": "a\\': "a",
    }
    assert {text: read_choice(text).text for text in cut} == cut
    with pytest.raises(GenerationError, match="raise max_tokens"):
        labkit.choose_tool(babbler, ASK, [add], max_tokens=4)


def test_the_bundled_model_chooses_and_goes_on() -> None:
    """A real model of 135M parameters picks the tool of two that fits, and sees its result."""
    with labkit.load_model(n_ctx=1024) as model:
        choice = labkit.choose_tool(
            model, [{"role": "user", "content": "What is 17 plus 25?"}], [add, weather], must_call=True
        )
        assert choice.name == "add"
        assert sorted(choice.arguments) == ["a", "b"]
        assert labkit.count_chat_tokens(model, TALK, tools=[add]) > labkit.count_chat_tokens(model, TALK)
        assert "3" in labkit.generate_chat(model, TALK, tools=[add], temperature=0, max_tokens=12)
