"""Tools: schemas from functions, conversations with calls and results, and choices that always follow the schema."""

from __future__ import annotations

import enum
import json
import random
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import jsonschema
import pydantic
import pytest

import labkit
from labkit.chat.messages import check_messages
from labkit.chat.options import ChatOptions, chat_prompt
from labkit.chat.tool_choice import read_choice
from labkit.chat_template.calls import CallForm, read_calls
from labkit.chat_template.render import ChatTemplate
from labkit.chat_template.tools import call_schema, check_tools
from labkit.engine.sampler import Sampler
from labkit.errors import ArgumentError, ArgumentTypeError, GenerationError
from labkit.grammar.json_schema import grammar_of_schema
from tests.gbnf import Grammar
from tests.tiny_models import CHATML, SPECIALS, write_tiny_model


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


def strange(a: type) -> None:
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


def test_a_file_s_template_for_tools_is_used(tmp_path: Path) -> None:
    """With tools, a file's template of the name tool_use; its default one, or a given one, otherwise."""
    path = write_tiny_model(tmp_path / "two.gguf", keys={"tokenizer.chat_template.tool_use": KNOWS})
    known: Any = check_messages(ASK)
    with labkit.load_model(path, n_ctx=512, n_threads=1) as model, model.vocabulary() as tokenizer:

        def prompt(**options: Any) -> str:
            tokens, _ = chat_prompt(tokenizer, known, ChatOptions(**options))
            return b"".join(map(tokenizer.piece, tokens)).decode()

        assert prompt(tools=[add]).startswith("TOOLS [")
        assert prompt() == prompt(template_options={"chat_template": CHATML})
        assert "TOOLS" not in prompt() + prompt(tools=[add], template_options={"chat_template": CHATML})


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


class Place(pydantic.BaseModel):
    street: str


class Guest(pydantic.BaseModel):
    age: Annotated[int, pydantic.Field(ge=1, le=5)]
    home: Place
    friends: tuple[Guest, ...] = ()


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def test_a_choice_follows_the_types_of_its_function() -> None:
    """Pydantic accepts what the grammar writes: for classes within classes, bounds, enumerations and dicts of one type."""

    def book(guest: Guest, room: Annotated[int, pydantic.Field(le=9)], colour: Colour, prices: dict[str, bool]) -> None: ...

    def walk(a: list[Place], b: Annotated[str, ...], c: dict, d: typing.Dict, e: Any) -> None: ...  # type: ignore[type-arg]  # noqa: UP006

    grammar = Grammar(grammar_of_schema(call_schema(check_tools([book, walk, Guest]), must_call=True)))
    called = {"book": pydantic.validate_call(book), "walk": pydantic.validate_call(walk), "Guest": Guest}
    said = [json.loads(grammar.text(random.Random(seed))) for seed in range(60)]
    for one in said:
        called[one["tool"]](**one["arguments"])
    assert {one["tool"] for one in said} == called.keys()
    assert any(one["arguments"]["guest"].get("friends") for one in said if one["tool"] == "book")


def test_a_tool_may_be_a_class_that_contains_itself() -> None:
    """A schema that is only a reference keeps the properties of what it leads to."""
    grammar = Grammar(grammar_of_schema(call_schema(check_tools([{"name": "f", "parameters": Guest.model_json_schema()}]))))
    said = [json.loads(grammar.text(random.Random(seed))) for seed in range(20)]
    assert any(Guest(**one["arguments"]).friends for one in said if one["tool"])


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
    """A real model of 135M parameters picks the tool of two that fits, and goes on with its result.

    What it then writes depends on the processor's rounding, so only the conversation that it read is compared.
    """
    with labkit.load_model(n_ctx=1024) as model:
        choice = labkit.choose_tool(
            model, [{"role": "user", "content": "What is 17 plus 25?"}], [add, weather], must_call=True
        )
        assert choice.name == "add"
        assert sorted(choice.arguments) == ["a", "b"]
        assert labkit.count_chat_tokens(model, TALK, tools=[add]) > labkit.count_chat_tokens(model, TALK)
        assert labkit.generate_chat(model, TALK, tools=[add], temperature=0, max_tokens=12)
        assert model.last_generation is not None
        read, _ = chat_prompt(model.native.tokenizer, check_messages(TALK), ChatOptions(tools=[add]))
        assert model.last_generation.n_prompt == len(read)
        assert "3.0" in model.detokenize(read).decode()


# -- calls in a template's own form -------------------------------------------------------------------------------------

_TOOLS_OF = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}CALL{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{% if tools %}{% endif %}"
)
_NAME, _GIVEN = "{{ c.function.name }}", "{{ c.function.arguments | tojson }}"
# Form -> how its template writes a call, the form, and an answer with two calls (one where it has room for one).
CALLS = {
    "qwen": ('<tool_call>\n{"name": "N", "arguments": A}\n</tool_call>', CallForm("<tool_call>", "name", "arguments"),
             'Let me see.\n<tool_call>{"name":"add","arguments":{"a": 1, "b": 2}}</tool_call>\n<tool_call>\n'
             '{"arguments": {"city": "Rome"}, "name": "weather"}\n</tool_call>'),
    "llama": ('{"name": "N", "parameters": A}', CallForm("", "name", "parameters"),
              ' {"name": "add", "parameters": {"a": 1, "b": 2}}'),
    "nemo": ('[TOOL_CALLS][{"name": "N", "arguments": A, "id": "call00001"}]',
             CallForm("[TOOL_CALLS]", "name", "arguments"),
             '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}, "id": "x"}, '
             '{"name": "weather", "arguments": {"city": "Rome"}}]'),
    "devstral": ("[TOOL_CALLS]N[ARGS]A", CallForm("[TOOL_CALLS]", between="[ARGS]"),
                 '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]weather[ARGS]{"city": "Rome"}'),
    "lines": ('<tool_calls>\n{"name": "N", "arguments": A}\n</tool_calls>', CallForm("<tool_calls>", "name", "arguments"),
              '<tool_calls>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n{"name": "weather", "arguments": '
              '{"city": "Rome"}}\n</tool_calls>'),
}  # fmt: skip


def _writes(call: str) -> str:
    return _TOOLS_OF.replace("CALL", re.sub(r"\bA\b", _GIVEN, re.sub(r"\bN\b", _NAME, call)))


@pytest.mark.parametrize("name", CALLS)
def test_calls_in_a_template_s_own_form_are_read(name: str) -> None:
    """The form is found by rendering, and all calls of known tools in an answer are read, each with its arguments."""
    call, form, answer = CALLS[name]
    assert ChatTemplate(_writes(call)).calls == form
    expected = [("add", {"a": 1, "b": 2}), ("weather", {"city": "Rome"})][: 1 + (name != "llama")]
    assert list(read_calls(form, answer, ["add", "weather"])) == expected
    assert list(read_calls(form, answer, ["weather"])) == expected[1:]


@pytest.mark.parametrize(
    "call", ["", "<function=N><parameter=x>1</parameter></function>", "<t>N:0<a>A</t>", "N(A)", "[N(x=1)]"]
)
def test_calls_in_other_forms_are_not_guessed(call: str) -> None:
    """A template without calls, with arguments that are not JSON, without a mark, or with a number has no known form."""
    assert ChatTemplate(_writes(call)).calls is None


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("qwen", '<tool_call>{"name": "add", "arguments": {"a": 1'),  # cut off
        ("qwen", '<tool_call>{"name": "add", "arguments": "a"}</tool_call>'),
        ("qwen", 'I would write {"name": "add", "arguments": {"a": 1}}.'),
        ("qwen", f"<tool_call>{'[' * 5000}"),
        ("llama", 'For example {"name": "add", "parameters": {"a": 1}}'),
        ("llama", '{"name": 1, "parameters": {"a": 1}}'),
        ("llama", '{"name": ["add"], "parameters": {"a": 1}}'),
        ("devstral", "[TOOL_CALLS]add[ARGS][1]"),
    ],
)
def test_what_is_not_a_complete_call_is_text(name: str, answer: str) -> None:
    """A call that was cut off, has other arguments, or is only mentioned is not read."""
    assert read_calls(CALLS[name][1], answer, ["add"]) == ()


def test_last_generation_has_the_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tools, last_generation has the calls, also where their mark is a control token; the text stays as it is."""
    call, _, answer = CALLS["devstral"]
    path = tmp_path / "model.gguf"
    write_tiny_model(path, template=_writes(call), specials=(*SPECIALS, "[TOOL_CALLS]", "[ARGS]"))
    with labkit.load_model(path, n_ctx=1024, n_threads=1) as model:
        with model.vocabulary() as tokenizer:
            tokens = tokenizer.tokenize(f"{answer}<|endoftext|>", parse_special=True)
        said = list(tokens)
        monkeypatch.setattr(Sampler, "sample", lambda *_, **__: said.pop(0))
        text = labkit.generate_chat(model, ASK, 200, 0, tools=[add, weather])
        assert model.last_generation is not None
        calls = model.last_generation.tool_calls
        assert [one["function"]["name"] for one in calls] == ["add", "weather"]
        assert text == 'add{"a": 1, "b": 2}weather{"city": "Rome"}'
        said[:] = tokens
        labkit.generate_chat(model, [*ASK, {"role": "assistant", "tool_calls": calls}, *TALK[2:]], 200, 0)
        assert model.last_generation.tool_calls == ()  # without tools
