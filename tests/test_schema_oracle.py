"""Grammars are never wider than the schema: random texts of random schemas' grammars, checked by jsonschema."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from labkit.errors import ArgumentError
from labkit.grammar.json_schema import grammar_of_schema
from tests.gbnf import Grammar

N_SCHEMAS = 200
N_TEXTS = 12
NAMES = ("a", "b", "kind", "c d", "é")
PATTERNS = (
    "^a+$", "b", r"^\d{2,4}$", r"^\S+$", r"^\W$", "^[^a-z]{1,3}$", "^(x|yy)?$", r"^\D\s\w$", "^.{2}$", r"^[^\w\s]*$",
    "a|^b", r"^\w+-\w+$", "^kind$",
)  # fmt: skip


def _some(source: random.Random, options: dict[str, Any]) -> dict[str, Any]:
    return {key: make() for key, make in options.items() if source.random() < 0.4}


def random_schema(source: random.Random, depth: int = 3) -> Any:
    """Return a schema with keywords side by side, as people and tools write them."""
    pick = source.choice
    if depth <= 0 or source.random() < 0.06:
        return pick(
            [True, {"type": "null"}, {"type": "boolean"}, {"$ref": "#/$defs/n"}, {"const": pick([1, "a", None])}, False]
        )

    def inner() -> Any:
        return random_schema(source, depth - 1)

    def several() -> list[Any]:
        return [inner() for _ in range(source.randint(1, 3))]

    def value() -> Any:
        return pick(
            [0, 1, 2.5, -3, 1.0, "a", "aa", "12", "é", "", None, True, False, [], [1], ["a"], {}, {"a": 1}, {"kind": "x"}]
        )

    def number() -> float:
        return pick([0, 1, -1, 5, 2.5, -0.75, 100, 0.1, 12.34, 9007199254740991, -9007199254740991, 2**63 - 1, 1e16, 1e-3])

    numbers = dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), number)
    strings = {
        "minLength": lambda: source.randint(0, 4), "maxLength": lambda: source.randint(0, 6),
        "pattern": lambda: pick(PATTERNS),
        "format": lambda: pick(["date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "uri", "other", "duration"]),
    }  # fmt: skip
    arrays = {
        "items": inner, "prefixItems": several, "minItems": lambda: source.randint(0, 3),
        "maxItems": lambda: source.randint(0, 4),
    }  # fmt: skip
    objects = {
        "properties": lambda: {pick(NAMES): inner() for _ in range(source.randint(0, 3))},
        "required": lambda: source.sample(NAMES, source.randint(0, 2)), "additionalProperties": inner,
        "patternProperties": lambda: {pick(["^a", "d$", "^k", "."]): inner()},
        "propertyNames": lambda: pick([{"maxLength": 3}, {"pattern": "^[a-k]+$"}, {"enum": ["a", "b"]}, inner()]),
        "minProperties": lambda: source.randint(0, 2), "maxProperties": lambda: source.randint(0, 3),
        "dependentRequired": lambda: {pick(NAMES): [pick(NAMES)]},
        "dependentSchemas": lambda: {pick(NAMES): inner()}, "unevaluatedProperties": lambda: pick([False, inner()]),
    }  # fmt: skip
    kinds = {"string": strings, "integer": numbers, "number": numbers, "array": arrays, "object": objects}
    types = source.sample([*kinds, "null", "boolean"], source.choice([1, 1, 1, 2, 3]))
    schema: dict[str, Any] = {} if source.random() < 0.3 else {"type": types[0] if len(types) == 1 else types}
    for kind in types:
        schema |= _some(source, kinds.get(kind, {}))
    if source.random() < 0.3:
        combining = {
            "allOf": several,
            "anyOf": several,
            "oneOf": several,
            "$ref": lambda: pick(["#/$defs/n", "#/$defs/o", "#s"]),
        }
        schema |= _some(source, combining)
    if source.random() < 0.12:
        schema[pick(["enum", "enum", "const"])] = [value() for _ in range(source.randint(1, 5))]
    return schema


def schema_of(seed: int) -> dict[str, Any]:
    """Return the random schema of a number, with definitions."""
    source = random.Random(seed)
    schema = random_schema(source)
    schema = schema if isinstance(schema, dict) else {"allOf": [schema]}
    schema["$defs"] = {
        "n": random_schema(source, 1),
        "o": {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/o"}]}}},
        "s": {"$anchor": "s", "type": ["string", "null"], "maxLength": 3},
    }
    return schema


def wrong_texts(schema: dict[str, Any], seed: int) -> list[str] | None:
    """Return texts of a schema's grammar that are not JSON or do not match the schema; None where it is refused."""
    try:
        grammar = Grammar(grammar_of_schema(schema))
    except ArgumentError:
        return None
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    source = random.Random(seed)
    texts = {grammar.text(source, source.choice([5, 30, 200])) for _ in range(N_TEXTS)}
    return [text for text in texts if not validator.is_valid(json.loads(text))]


@pytest.mark.parametrize("block", range(4))
def test_no_text_is_outside_a_random_schema(block: int) -> None:
    """Whatever keywords stand side by side: each text of the grammar matches, and most schemas are taken."""
    refused = 0
    for seed in range(block, N_SCHEMAS, 4):
        wrong = wrong_texts(schema_of(seed), seed)
        refused += wrong is None
        assert not wrong, (schema_of(seed), wrong)
    assert refused < N_SCHEMAS / 4 * 0.6
