"""Every text that follows a schema's grammar is JSON that matches the schema; unsupported schemas are refused."""

from __future__ import annotations

import base64
import datetime
import enum
import json
import random
import re
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.grammar.json_rules import LENGTHS
from labkit.grammar.json_schema import grammar_of_schema
from labkit.grammar.number_range import integer_range, number_range
from labkit.grammar.regex import grammar_of_pattern, quote
from tests.gbnf import Grammar
from tests.tiny_models import write_tiny_model

N_SEEDS = 12


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Unknown(pydantic.BaseModel):
    call: Callable[[int], int]


class Point(pydantic.BaseModel):
    x: Annotated[int, pydantic.Field(ge=-5, lt=100)]
    y: float = 0.5


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, pydantic.Field(ge=0, le=9)]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    born: datetime.date
    best: Dog | None = None


class Zoo(pydantic.BaseModel):
    """A bit of everything that pydantic writes: $defs, unions, literals, tuples, maps, formats, defaults."""

    model_config = pydantic.ConfigDict(extra="forbid")
    name: Annotated[str, pydantic.Field(min_length=1, max_length=12)]
    size: Color
    pets: Annotated[list[Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]], pydantic.Field(max_length=3)]
    place: tuple[int, float] | None
    key: uuid.UUID
    when: datetime.datetime
    counts: dict[str, int] = {}
    photo: pydantic.Base64Bytes | None = None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[labkit.Model]:
    path = write_tiny_model(tmp_path_factory.mktemp("schema") / "tiny.gguf", scale=0.05)
    with labkit.load_model(path, n_ctx=1024, n_threads=1) as loaded:
        yield loaded


SHORT = {"type": "string", "maxLength": 4}
SCHEMAS: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "several types": {"type": ["null", "boolean", "integer"]},
    "short string": SHORT,
    "exact string": {"type": "string", "minLength": 3, "maxLength": 3},
    "empty string": {"type": "string", "maxLength": 0},
    "long string": {"type": "string", "minLength": 150, "maxLength": 400},
    "enum": {"enum": ["plain", "qu\"ote", "back\\slash", "new\nline", "é🦙", 7, 1.5, None, True, ["a", {"b": []}], {}]},
    "const": {"const": {"b": ["\u2028", "\x00", "</script>"]}},
    "typed enum": {"type": "string", "enum": ["a", "b"]},
    "object": {"type": "object", "properties": {"a": SHORT, "b": {"type": "integer"}}, "required": ["a", "b"]},
    "optional": {"type": "object", "properties": {"a": SHORT, "b": {"type": "null"}, "c": {"type": "boolean"}}},
    "some required": {
        "properties": {"a": SHORT, "b": {"type": "null"}, "c": {"type": "boolean"}, "d": {"enum": [1]}},
        "required": ["b", "d"],
    },
    "last required": {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "required": ["b"]},
    "first required": {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "required": ["a"]},
    "odd names": {"type": "object", "properties": {'q"u\\o': {"type": "null"}, "é🦙": {"type": "null"},
    "": {"type": "null"}}},
    "closed object": {"type": "object", "properties": {}, "additionalProperties": False},
    "closed properties": {"properties": {"a": {"type": "null"}}, "additionalProperties": False},
    "array": {"type": "array", "items": {"type": "boolean"}, "maxItems": 5},
    "at least two": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 4},
    "exactly three": {"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 3},
    "no items": {"type": "array", "maxItems": 0},
    "one item": {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 1},
    "tuple": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}]},
    "tuple and rest": {"prefixItems": [{"type": "null"}], "items": {"enum": [3]}, "minItems": 2, "maxItems": 4},
    "closed tuple": {"prefixItems": [{"type": "null"}, {"enum": [2]}], "items": False, "maxItems": 1},
    "any of": {"anyOf": [{"type": "null"}, {"enum": ["x"]}, {"type": "array", "items": {"type": "null"}, "maxItems": 2}]},
    "one of": {"oneOf": [{"type": "null"}, {"type": "boolean"}], "title": "T", "description": "D", "default": None},
    "all of": {"allOf": [{"properties": {"a": {"type": "null"}}, "required": ["a"]},
    {"properties": {"b": {"enum": [1]}}}]},
    "reference": {"$defs": {"n": {"type": "null"}}, "type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 3},
    "recursion": {
        "$defs": {"t": {"properties": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/t"}]}}, "required": ["n"]}},
        "$ref": "#/$defs/t",
    },
    "reference to the whole": {"properties": {"n": {"$ref": "#"}}},
    "at most": {"type": "integer", "maximum": 7, "minimum": -120},
    "above and below": {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 12},
    "big integers": {"type": "integer", "minimum": 10**12},
    "unit interval": {"type": "number", "minimum": 0, "maximum": 1},
    "positive": {"type": "number", "exclusiveMinimum": 0},
    "negative": {"type": "number", "maximum": -1.5},
    "between": {"type": "number", "minimum": -2.5, "exclusiveMaximum": 12},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date-time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "unknown format": {"type": "string", "format": "colour", "maxLength": 3},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}$"},
    "pattern with quotes": {"type": "string", "pattern": "^[\"\\\\/\\n]{1,4}(a|b|)x?$"},
    "pattern with sets": {"type": "string", "pattern": "^\\w[^a-z\\s]\\S\\D$"},
    "reference and more": {"$ref": "#/$defs/a", "minLength": 2, "$defs": {"a": {"type": "string", "maxLength": 4}}},
    "enum and more": {"enum": ["a", "abc", 3, 30, None], "type": ["string", "integer"], "maxLength": 2, "minimum": 4},
    "all of each kind": {"allOf": [{"type": ["number", "string"], "minimum": 3}, {"maximum": 4.5}, {"minLength": 1}],
    "maxLength": 2},
    "any of next to properties": {"properties": {"a": {"type": "null"}, "b": {"type": "null"}},
    "anyOf": [{"required": ["a"]}, {"required": ["b"], "properties": {"a": {"type": "boolean"}}}]},
    "one of next to properties": {"properties": {"a": {"type": "null"}, "b": {"type": "null"}},
    "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "one of by a constant": {"oneOf": [{"properties": {"k": {"const": 1}, "a": {"type": "null"}}},
    {"properties": {"k": {"const": 2}}}]},
    "one of values": {"oneOf": [{"enum": [1, 2, 3]}, {"enum": [3, 4]}]},
    "pattern of names": {"patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False, "maxProperties": 3},
    "pattern of a named": {"properties": {"xa": {"type": ["null", "boolean"]}},
    "patternProperties": {"^x": {"type": "null"}}},
    "names of a map": {"additionalProperties": {"type": "null"}, "propertyNames": {"pattern": "^[a-c]{2}$"},
    "minProperties": 1},
    "number of properties": {"properties": {c: {"type": "null"} for c in "abcd"}, "minProperties": 2, "maxProperties": 3},
    "dependent": {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "dependentRequired": {"a": ["b"]}},
    "draft-07": {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a/b c%": {"type": "null"}},
    "dependencies": {"y": ["x"]}, "properties": {"x": {"$ref": "#/definitions/a~1b%20c%25"},
    "y": {"items": [{"type": "null"},
    {"type": "boolean"}], "additionalItems": False}}},
    "identifiers": {"$id": "https://example.org/root", "$defs": {"a": {"$id": "a.json", "type": "null"},
    "b": {"$anchor": "here", "type": "boolean"}}, "anyOf": [{"$ref": "a.json"}, {"$ref": "#here"},
    {"$ref": "https://example.org/root#/$defs/b"}]},
    "safe integers": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
    "64 bits": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "fractions": {"type": "number", "exclusiveMinimum": 0.25, "maximum": 0.75},
    "pattern and length": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
    "email": {"type": "string", "format": "email"},
    "uri": {"type": "string", "format": "uri"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "ipv6": {"type": "string", "format": "ipv6"},
    "annotated": {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "T", "type": "boolean",
    "examples": [1]},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_generated_text_parses_and_matches(model: labkit.Model, name: str) -> None:
    """For any seed, a finished text is JSON that matches the schema according to an independent validator."""
    schema = SCHEMAS[name]
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    ended = 0
    for seed in range(N_SEEDS):
        text = labkit.generate_text(
            model, "JSON:", 900, temperature=1.0, seed=seed, top_k=0, top_p=1, min_p=0, json_schema=schema
        )
        assert model.last_generation is not None
        if model.last_generation.finish_reason == "end":
            value = json.loads(text)
            if "\ufffd" not in text:  # a random model generates invalid UTF-8, shown as this
                ended += 1
                validator.validate(value)
    assert ended >= N_SEEDS / 4


@pytest.mark.parametrize(
    "kind", [{}, {"type": "object"}, {"type": "array"}, {"type": "string"}, {"additionalProperties": {"type": "null"}}]
)
def test_open_schemas_give_valid_json(model: labkit.Model, kind: dict[str, Any]) -> None:
    """Without constraints, the text is still the beginning of JSON: no raw line break in a string, no infinite number."""
    for seed in range(N_SEEDS):
        text = labkit.generate_text(model, "JSON:", 300, temperature=1.0, seed=seed, top_k=0, json_schema=kind)
        assert model.last_generation is not None
        assert not re.search(r"[\x00-\x1f\x7f]", text)
        if model.last_generation.finish_reason == "end":
            assert "inf" not in repr(json.loads(text))


NEGATED = (r"^person_\S+$", r"^\W$", r"^\D{2}$", r"^[^\w]$", r"^[^\d\s]+$", r"^\S\s\S$", r"^[^\W]$", r"^[^\S]$", r"^.$")


@pytest.mark.parametrize("pattern", NEGATED)
def test_classes_are_what_every_dialect_agrees_on(pattern: str) -> None:
    """Texts of a pattern match it in Python, whose classes have all of Unicode, with ASCII classes, and as in ECMA 262."""
    grammar = Grammar(grammar_of_schema({"type": "string", "pattern": pattern}))
    spaces = "\\t\\n\\v\\f\\r \\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff"
    ecma = pattern.replace(r"[^\S]", f"[{spaces}]").replace(r"\d\s]", rf"\d{spaces}]")
    ecma = ecma.replace(r"\s", f"[{spaces}]").replace(r"\S", f"[^{spaces}]").replace("^.", r"^[^\n\r\u2028\u2029]")
    source = random.Random(7)
    for _ in range(400):
        text = json.loads(grammar.text(source))
        assert re.search(pattern, text), ascii(text)
        assert re.search(ecma, text, re.ASCII), ascii(text)


def test_schema_may_be_text() -> None:
    """A schema's JSON text gives the same grammar as the dict."""
    for schema in SCHEMAS.values():
        assert (
            grammar_of_schema(json.dumps(schema))
            == grammar_of_schema("\ufeff" + json.dumps(schema))
            == grammar_of_schema(schema)
        )


def test_large_bounds_give_short_grammars() -> None:
    """A length of 2,000 is a number in the grammar, not two thousand nested groups."""
    assert len(grammar_of_schema({"type": "string", "minLength": 10, "maxLength": 2000})) < 400
    assert len(grammar_of_schema({"type": "array", "items": {"type": "null"}, "maxItems": 2000})) < 200


REFUSED: list[tuple[Any, str]] = [
    ("{", "not valid JSON"), ("[1]", "JSON object"), ("7", "JSON object"), ("[" * 100_000, "not valid JSON"),
    ({"type": "nope"}, "unknown type 'nope'"), ({"type": 5}, "unknown type"), ({"type": []}, "unknown"), ({"type": [None]},
    "unknown"),
    ({"enum": []}, "non-empty list"), ({"enum": "ab"}, "list"), ({"enum": [object()]}, "not JSON"), ({"const": float("nan")},
"not JSON"),
    ({"anyOf": []}, "non-empty list"), ({"anyOf": [7]}, "at 'anyOf/0'"), ({"properties": 3}, "must be a dict"),
    ({"properties": {"a": 3}}, "at 'properties/a'"), ({"required": "ab"}, "list of names"),
    ({"properties": {"a": {}}, "required": ["b"], "additionalProperties": False}, "names 'b', which nothing matches"),
    ({"minLength": -1}, "0 or more"), ({"maxLength": "5"}, "whole number"), ({"minLength": 5, "maxLength": 2},
    "less than"),
    ({"type": "string", "minLength": 10**9}, "more than 2,000"), ({"type": "array", "minItems": 10**9},
    "more than 2,000"),
    ({"type": "array", "items": 5}, "at 'items'"), ({"prefixItems": 5}, "list of schemas"),
    ({"prefixItems": [{}], "items": False, "minItems": 2}, "'minItems' is more than 'prefixItems' and 'items' allow"),
    ({"type": "string", "pattern": "("}, "regular expression"), ({"type": "string", "pattern": "(?=a)b"}, "assert"),
    ({"type": "string", "pattern": "(a)\\1"}, "groupref"), ({"type": "string", "pattern": "\\bword"}, "at"),
    ({"type": "string", "pattern": "[^\\s\\S]"}, "without characters"), ({"type": "string", "pattern": 3},
    "must be text"),
    ({"type": "string", "pattern": "^(a{1,50}){1,50}$"}, "^json_schema: more than 2,000 repetitions"),
    ({"type": "string", "pattern": "a{100000}"}, "more than 2,000"), ({"type": "string", "pattern": "a|bc|(de)*",
    "maxLength": 3},
    "combined"),
    ({"type": "string", "format": "date", "minLength": 13}, "combined"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "within the bounds"), ({"type": "integer", "minimum": "3"},
    "number"),
    ({"type": "integer", "minimum": 10**30}, "can express"), ({"type": "number", "minimum": float("nan")}, "finite number"),
    ({"type": "number", "exclusiveMinimum": 1.2, "maximum": 1.2}, "within the bounds"),
    ({"type": "integer", "multipleOf": 2}, "'multipleOf' is not supported"), ({"uniqueItems": True}, "not supported"),
    ({"not": {}}, "not supported"), ({"if": {}}, "not supported"), ({"contains": {}}, "not supported"),
    ({7: 1}, "not supported"), ({"$ref": "https://example.org/x"}, "outside the schema"), ({"$ref": 7}, "outside the"),
    ({"$ref": "#/nope"}, "is not in the schema"), ({"$ref": "#"}, "leads back to itself"),
    ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "leads back to itself"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}], "minLength": 1}}}, "circular"),
    ({"oneOf": [{}, {}]}, "two alternatives of 'oneOf'"), ({"allOf": [{"type": "string"}, {"type": "integer"}]},
    "no text matches"), ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, "two alternatives"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "two different values of 'pattern'"),
    ({"pattern": "(?i)a"}, "flags"), ({"pattern": "a^b"}, "inside"), ({"pattern": "(^a|b){2}"}, "inside"),
    ({"pattern": "\\A"}, "dialects"), ({"pattern": "[]a]"}, "dialects"), ({"pattern": "a{,3}"}, "dialects"),
    ({"type": "object", "minProperties": 2}, "may repeat"), ({"$recursiveRef": "#"}, "not supported"),
    ({"enum": ["a"], "type": "integer"}, "no text matches"), ({"properties": {"a": False}, "required": ["a"]}, "'a'"),
    ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {}]}}, "$ref": "#/$defs/a"}, "circular|leads back"),
    ({"contentMediaType": "application/json"}, "JSON inside a text"),
    ({"$defs": {"a": {}}, "allOf": [{"$id": "http://a.b/", "$ref": "#/$defs/a"}]}, "add '.schema'"),
    ({"allOf": [7, 8]}, "expected a schema"), ({"items": {"$dynamicRef": "#x"}}, "not supported"),
]  # fmt: skip


def test_circular_references_do_not_use_up_the_stack() -> None:
    """They are found by their depth: at Python's own limit, the finalizers of other objects would fail, too."""
    depths = []

    def note(frame: FrameType | None, event: str, _: object) -> None:
        depths.append(len(list(traceback.walk_stack(frame))))

    parts = {"a": {"allOf": [{"$ref": "#/$defs/a"}], "minLength": 1},
             "b": {"properties": {"c": {"$ref": "#/$defs/b"}}, "required": ["c"]}}  # fmt: skip
    for schema in ({"$ref": "#/$defs/a"}, {"oneOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/b"}]}):
        depths.clear()
        sys.setprofile(note)
        try:
            with pytest.raises(labkit.ArgumentError, match="circular"):
                grammar_of_schema({"$defs": parts, **schema})
        finally:
            sys.setprofile(None)
        assert max(depths) - depths[0] < 600


@pytest.mark.parametrize(("schema", "what"), REFUSED, ids=range(len(REFUSED)))
def test_unsupported_schema_is_refused(schema: Any, what: str) -> None:
    """No keyword is dropped silently: one line says which, and where."""
    with pytest.raises(ArgumentError, match=what) as caught:
        grammar_of_schema(schema)
    assert "\n" not in str(caught.value)


def test_hostile_schemas_are_refused_at_once() -> None:
    """A cycle, very deep nesting and an exponentially growing tree are refused."""
    circle: dict[str, Any] = {"type": "object", "properties": {}}
    circle["properties"]["again"] = circle
    tower: dict[str, Any] = {"type": "null"}
    tree: dict[str, Any] = {"type": "null"}
    for _ in range(200):
        tower = {"type": "array", "items": tower}
    for _ in range(40):
        tree = {"anyOf": [tree, tree]}
    wide = {"properties": {f"name{i}": {"type": "null"} for i in range(3000)}}
    for schema in (circle, tower, tree, wide):
        with pytest.raises(ArgumentError, match="parts"):
            grammar_of_schema(schema)


def test_wrong_types_get_a_hint() -> None:
    """For a list, the error asks for a dict; for an object of a pydantic class, for the class."""
    with pytest.raises(ArgumentTypeError, match="must be a dict"):
        grammar_of_schema([])
    with pytest.raises(ArgumentTypeError, match="pass the pydantic class"):
        grammar_of_schema(Point(x=1))
    for wrong in (type("Odd", (), {"model_json_schema": lambda self: {}}), Unknown):
        with pytest.raises(ArgumentError, match=f"{wrong.__name__} has no JSON schema") as caught:
            grammar_of_schema(wrong)
        assert "\n" not in str(caught.value)


def test_answers_are_objects_of_a_pydantic_class(model: labkit.Model) -> None:
    """Any text that follows a class's grammar, random or a model's, is one that the class reads."""
    for kind in (Point, Dog, Zoo):
        grammar = Grammar(grammar_of_schema(kind))
        source = random.Random(7)
        for _ in range(60):
            kind.model_validate_json(grammar.text(source, 120))
        assert grammar_of_schema(kind) == grammar_of_schema(kind.model_json_schema())
    answer = labkit.generate_text(model, "a", 200, temperature=1.0, seed=1, json_schema=Point)
    assert isinstance(Point.model_validate_json(answer), Point)


def test_parts_that_never_end_are_left_out() -> None:
    """A part that always contains itself has no text: it is never begun; a schema of such parts only is refused."""
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}, "required": ["next"]}
    assert grammar_of_schema({"$defs": {"n": node}, "anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}) == (
        'root ::= null\nnull ::= "null"'
    )
    for wrong in ({"$defs": {"n": node}, "$ref": "#/$defs/n"}, {**node, "properties": {"next": {"$ref": "#"}}}):
        with pytest.raises(ArgumentError, match="contains itself without an end"):
            grammar_of_schema(wrong)
    may_end = {**node, "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}}
    text = Grammar(grammar_of_schema({"$defs": {"n": may_end}, "$ref": "#/$defs/n"})).text(random.Random(1), 1)
    assert json.loads(text) == {"next": None}
    tuples = {"$defs": {"n": {"type": "array", "prefixItems": [{"$ref": "#/$defs/n"}], "maxItems": 2}}, "$ref": "#/$defs/n"}
    assert json.loads(Grammar(grammar_of_schema(tuples)).text(random.Random(1), 9)) == []


def _lengths(grammar: Grammar, node: Any) -> tuple[int, int]:
    """Return the length of the shortest and of the longest text of a part of a grammar."""
    kind, value = node[0], node[1]
    if kind == "times":
        shortest, longest = _lengths(grammar, value)
        return shortest * node[2], longest * (10**9 if node[3] is None else node[3])
    if kind in ("seq", "or"):
        parts = list(zip(*(_lengths(grammar, part) for part in value), strict=True))
        return (sum(parts[0]), sum(parts[1])) if kind == "seq" else (min(parts[0]), max(parts[1]))
    return _lengths(grammar, grammar.rules[value]) if kind == "rule" else (1, 1) if kind == "set" else (len(value),) * 2


@pytest.mark.parametrize("kind", LENGTHS)
def test_formats_are_joined_with_bounds_that_they_keep(kind: str) -> None:
    """A format's texts have the lengths that the converter assumes: wider bounds change nothing, narrower are refused."""
    schema = {"type": "string", "format": kind}
    grammar = grammar_of_schema({"type": "string", "contentEncoding": "base64"} if kind == "base64" else schema)
    read = Grammar(grammar)
    shortest, longest = (length - 2 for length in _lengths(read, read.rules["root"]))
    assert (shortest, min(longest, 10**9)) == LENGTHS[kind]
    if kind != "base64":
        assert grammar_of_schema({**schema, "minLength": shortest, "maxLength": longest}) == grammar
        for bounds in ({"minLength": shortest + 1}, {"maxLength": longest - 1}):
            with pytest.raises(ArgumentError, match="cannot be combined"):
                grammar_of_schema({**schema, **bounds})


@pytest.mark.parametrize("kind", ["base64", "encoding", "relative-json-pointer", "uri-template"])
def test_formats_give_texts_of_their_kind(kind: str) -> None:
    """Base64 that Python reads; relative JSON pointers and URI templates by their RFCs' syntax."""
    schema = {"type": "string", "contentEncoding": "base64"} if kind == "encoding" else {"type": "string", "format": kind}
    grammar, source = Grammar(grammar_of_schema(schema)), random.Random(3)
    for _ in range(200):
        text = json.loads(grammar.text(source, 60))
        if kind in ("base64", "encoding"):
            assert base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
        elif kind == "relative-json-pointer":
            assert re.fullmatch(r"(0|[1-9]\d*)(#|(/([^~/]|~[01])*)*)", text)
        else:
            assert "{" not in text
            assert text.startswith("http")


def _matches(grammar: str, text: str) -> bool:
    """Match a text with a grammar of literals, digit classes, groups, ? and counted repetitions, as a regular expression."""
    pattern = re.sub(r'"([^"]*)"|\s+', lambda match: re.escape(match[1]) if match[1] is not None else "", grammar)
    return re.fullmatch(pattern, text) is not None


BOUNDS = st.none() | st.integers(-1200, 1200)


@settings(max_examples=3 * settings.default.max_examples)
@given(minimum=BOUNDS, maximum=BOUNDS, above=BOUNDS, below=BOUNDS)
def test_integer_range_is_exact(minimum: int | None, maximum: int | None, above: int | None, below: int | None) -> None:
    """The grammar accepts exactly the integers within the bounds."""
    grammar = integer_range(minimum, maximum, above, below)
    for number in range(-1300, 1301, 1 if abs(minimum or 0) < 150 else 7):
        inside = (
            (minimum is None or number >= minimum)
            and (maximum is None or number <= maximum)
            and (above is None or number > above)
            and (below is None or number < below)
        )
        assert (grammar is not None and _matches(grammar, str(number))) == inside, (number, grammar)


@settings(max_examples=2 * settings.default.max_examples)
@given(
    bounds=st.tuples(*[st.none() | st.integers(-300, 300).map(lambda n: n / 4)] * 4),
    number=st.integers(-40_000, 40_000).map(lambda n: n / 500),
)
def test_number_range_accepts_nothing_outside(bounds: tuple[float | None, ...], number: float) -> None:
    """The grammar accepts no number outside the bounds."""
    grammar = number_range(*bounds)
    minimum, maximum, above, below = bounds
    if grammar is not None and _matches(grammar, repr(number)):
        assert minimum is None or number >= minimum
        assert maximum is None or number <= maximum
        assert above is None or number > above
        assert below is None or number < below


def test_quote_writes_any_text_as_a_literal() -> None:
    """Quotes, backslashes and control characters are escaped; everything else is unchanged."""
    assert quote('a"b\\c\nd') == r'"a\"b\\c\x0Ad"'
    assert quote("é🦙") == '"é🦙"'


def test_patterns_are_anchored() -> None:
    """Alternatives, sets and repetitions become GBNF; anchors at the ends change nothing."""
    assert grammar_of_pattern("^ab$") == grammar_of_pattern("ab") == '"a" "b"'
    assert grammar_of_pattern("[a-c]{2}") == "([a-c]){2,2}"
    assert grammar_of_pattern("") == '""'


def test_bundled_model_answers_in_json() -> None:
    """The bundled model describes a person in JSON."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
        },
        "required": ["name", "age"],
    }
    messages = [{"role": "user", "content": "Describe a person as JSON with name and age."}]
    with labkit.load_model(Path(labkit.bundled_model_path()), n_ctx=512, n_threads=1) as model:
        answer = json.loads(labkit.generate_chat(model, messages, 80, temperature=0, json_schema=schema))
    jsonschema.validate(answer, schema)
