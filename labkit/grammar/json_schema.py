"""JSON schemas -> GBNF: every text that follows the grammar parses and matches the schema.

llama-cpp-python has a converter too, but its strings may contain raw line breaks (invalid JSON), it silently drops bounds on
numbers, and a ``maxLength`` of 1,000 becomes a thousand nested groups. This converter refuses unsupported keywords.

The grammar does not cover every matching text: properties are in the schema's order, without others than it names, a text
has at most one space where JSON allows any, and numbers have up to 16 digits.

References
----------
JSON Schema 2020-12, "Validation"; llama.cpp ``grammars/README.md``, "JSON schemas".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.grammar.check import MAX_REPEATS, check_grammar
from labkit.grammar.json_rules import CHOICES, KEYWORDS, NEEDS, RULES, SILENT, TYPES, separated, times
from labkit.grammar.number_range import integer_range, number_range
from labkit.grammar.regex import grammar_of_pattern, quote

MAX_NODES = 2_000
MAX_DEPTH = 60
MAX_CHARACTERS = 1_000_000


def grammar_of_schema(schema: Any) -> str:
    """Convert a JSON schema, as a dict or as JSON text, to a GBNF grammar; refuse what a grammar cannot express.

    Examples
    --------
    >>> print(grammar_of_schema({"type": "array", "items": {"type": "boolean"}, "maxItems": 3}))
    root ::= "[" ws (part-2)? "]"
    boolean ::= "true" | "false"
    part-2 ::= boolean ("," ws boolean){0,2} ws
    ws ::= " "?
    """
    if isinstance(schema, str):
        schema = _parse(schema)
    if not isinstance(schema, Mapping):
        owner = schema if isinstance(schema, type) else type(schema)
        hint = "; a pydantic class has one: Class.model_json_schema()" if hasattr(owner, "model_json_schema") else ""
        raise ArgumentTypeError(f"json_schema must be a dict or its JSON text, not {type(schema).__name__}{hint}")
    return check_grammar(_Converter(schema).convert())


def _parse(text: str) -> Any:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"json_schema is not valid JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(schema, dict):
        raise ArgumentError('json_schema must be a JSON object such as {"type": "object"}')
    return schema


class _Converter:
    """Walk a schema and write a rule for each part."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self.rules: dict[str, str] = {}
        self.references: dict[str, str] = {}
        self.path: list[str] = []
        self.n_nodes = self.n_characters = 0

    def convert(self) -> str:
        self._add("root", self._visit(self.schema))
        names = sorted(self.rules, key=lambda name: (name != "root", name))
        return "\n".join(f"{name} ::= {self.rules[name]}" for name in names)

    def _visit(self, schema: Any) -> str:
        """Return the grammar of one part."""
        self.n_nodes += 1
        if self.n_nodes > MAX_NODES or len(self.path) > MAX_DEPTH:
            raise ArgumentError(
                f"json_schema has more than {MAX_NODES:,} parts, or parts nested deeper than {MAX_DEPTH}: use a smaller one"
            )
        if schema is True:
            return self._known("value")
        if not isinstance(schema, Mapping):
            self._fail(f"expected a schema (a dict), not {type(schema).__name__}")
        self._refuse_unknown(schema)
        for keyword in CHOICES & set(schema):
            if others := [key for key in schema if key != keyword and not self._is_compatible(key, keyword)]:
                self._fail(f"{keyword!r} together with {others[0]!r} is not supported: combine them in one schema")
            return self._choice(keyword, schema[keyword])
        return self._typed(schema)

    def _refuse_unknown(self, schema: Mapping[str, Any]) -> None:
        known = {"type", *CHOICES, *SILENT}.union(*KEYWORDS.values())
        for key in schema:
            if not isinstance(key, str) or (key not in known and (not key.startswith("$") or key == "$dynamicRef")):
                self._fail(f"{key!r} is not supported: remove it, and check the answer yourself")

    @staticmethod
    def _is_compatible(key: str, keyword: str) -> bool:
        return key in SILENT or key.startswith("$") or (key == "type" and keyword in ("enum", "const"))

    def _choice(self, keyword: str, value: Any) -> str:
        if keyword == "$ref":
            return self._reference(value)
        if keyword == "const":
            return self._literal(value)
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            self._fail(f"{keyword!r} must be a non-empty list")
        if keyword == "enum":
            return self._any_of([self._literal(item) for item in value])
        if keyword == "allOf":
            return self._inside("allOf", self._merge(value))
        return self._any_of([self._inside(f"{keyword}/{index}", item) for index, item in enumerate(value)])

    def _typed(self, schema: Mapping[str, Any]) -> str:
        guessed = [kind for kind, keywords in KEYWORDS.items() if keywords & set(schema) and kind != "integer"]
        kinds = schema.get("type", guessed or TYPES)
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, Sequence) or not kinds or any(kind not in TYPES for kind in kinds):
            self._fail(f"unknown type {str(schema.get('type'))[:40]!r}: choose one of {', '.join(TYPES)}")
        return self._any_of([self._of_type(kind, schema) for kind in dict.fromkeys(kinds)])

    def _of_type(self, kind: str, schema: Mapping[str, Any]) -> str:
        if not KEYWORDS.get(kind, set()) & set(schema):
            return self._known(kind)
        return {"object": self._object, "array": self._array, "string": self._string}.get(kind, self._bounded)(schema, kind)

    def _object(self, schema: Mapping[str, Any], kind: str) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, Sequence) or isinstance(required, str):
            self._fail("'properties' must be a dict and 'required' a list of names")
        if missing := [name for name in required if name not in properties]:
            additional = schema.get("additionalProperties", True)
            if additional is False:
                self._fail("'required' names a property that is not in 'properties', and 'additionalProperties' forbids it")
            properties = {**properties, **dict.fromkeys(missing, additional)}
        if not properties:
            return self._map(schema)
        self._known("ws")
        rest = ""  # the rest of the object from this property on, after another property
        first = '"}"'  # the same without a property before it
        for name, part in reversed(properties.items()):
            pair = f'{self._literal(str(name))} ":" ws {self._rule(self._inside(f"properties/{name}", part))}'
            pair = self._rule(pair)
            alone = f'{pair} {rest} ws "}}"' if rest else f'{pair} ws "}}"'
            first = self._rule(alone) if name in required else self._rule(f"{alone} | {first}")
            rest = self._rule(f'"," ws {pair} {rest}' if name in required else f'("," ws {pair})? {rest}')
        return f'"{{" ws {first}'

    def _map(self, schema: Mapping[str, Any]) -> str:
        additional = schema.get("additionalProperties", True)
        self._known("ws")
        if additional is False:
            return '"{" ws "}"'
        value = self._rule(self._inside("additionalProperties", additional))
        pair = f'{self._known("string")} ":" ws {value}'
        return f'"{{" ws ({pair} ("," ws {pair})* ws)? "}}"'

    def _array(self, schema: Mapping[str, Any], kind: str) -> str:
        least, most = self._bounds(schema, "minItems", "maxItems")
        prefix, items = schema.get("prefixItems", []), schema.get("items", True)
        if not isinstance(prefix, Sequence) or isinstance(prefix, str):
            self._fail("'prefixItems' must be a list of schemas")
        if "prefixItems" in schema and "items" not in schema:
            items = items if least > len(prefix) else False
        fixed = [self._rule(self._inside(f"prefixItems/{index}", part)) for index, part in enumerate(prefix[:most])]
        self._known("ws")
        least = max(least - len(fixed), 0)
        most = None if most is None else most - len(fixed)
        if items is False:
            if least:
                self._fail("'minItems' is more than 'prefixItems' and 'items' allow")
            return f'"[" ws {" ".join([*separated(fixed), "ws"]) if fixed else ""} "]"'
        if most == 0 and not fixed:
            return '"[" ws "]"'
        item = self._rule(self._inside("items", items))
        if fixed:
            return f'"[" ws {" ".join(separated(fixed))} ("," ws {item}){times(least, most)} ws "]"'
        some = self._rule(f'{item} ("," ws {item}){times(max(least - 1, 0), None if most is None else most - 1)} ws')
        return f'"[" ws {some if least else f"({some})?"} "]"'

    def _string(self, schema: Mapping[str, Any], kind: str) -> str:
        least, most = self._bounds(schema, "minLength", "maxLength")
        form = f"format-{schema.get('format')}"
        if "pattern" in schema or form in RULES:
            if least or most is not None or ("pattern" in schema and form in RULES):
                self._fail("'pattern' and 'format' cannot be combined with each other or with bounds on the length")
            return self._known(form) if form in RULES else self._pattern(schema["pattern"])
        return f'"\\"" {self._known("char")}{times(least, most)} "\\""'

    def _pattern(self, pattern: Any) -> str:
        if not isinstance(pattern, str):
            self._fail(f"'pattern' must be text, not {type(pattern).__name__}")
        try:
            return f'"\\"" ({grammar_of_pattern(pattern)}) "\\""'
        except ValueError as error:
            self._fail(str(error))

    def _bounded(self, schema: Mapping[str, Any], kind: str) -> str:
        names = {"minimum": "minimum", "maximum": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}
        bounds = {name: schema.get(key) for name, key in names.items()}
        if any(
            value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e15)
            for value in bounds.values()
        ):
            self._fail("bounds must be numbers of at most 15 digits")
        found = (integer_range if kind == "integer" else number_range)(**bounds)
        if found is None:
            self._fail(f"no {kind} is within the bounds, or none that the grammar can express")
        return found

    def _bounds(self, schema: Mapping[str, Any], low: str, high: str) -> tuple[int, int | None]:
        least, most = schema.get(low, 0), schema.get(high)
        for key, value in ((low, least), (high, most)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                self._fail(f"{key!r} must be a whole number, 0 or more")
            if value is not None and value > MAX_REPEATS:
                self._fail(f"{key!r} is more than {MAX_REPEATS:,}, the limit of llama.cpp's grammars")
        if most is not None and most < least:
            self._fail(f"{high!r} is less than {low!r}")
        return least, most

    def _merge(self, parts: Sequence[Any]) -> dict[str, Any]:
        """Join the parts of an allOf: objects with properties."""
        merged: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
        for part in parts:
            while isinstance(part, Mapping) and "$ref" in part:
                part = self._resolve(part["$ref"])
                self.n_nodes += 1
                if self.n_nodes > MAX_NODES:
                    self._fail("its references are circular")
            if not isinstance(part, Mapping):
                self._fail(f"expected a schema (a dict), not {type(part).__name__}")
            if len(parts) == 1:
                return dict(part)
            allowed = {"type", "properties", "required", *SILENT}
            if part.get("type", "object") != "object" or any(key not in allowed for key in part):
                self._fail("only objects with 'properties' and 'required' can be merged")
            merged["properties"].update(part.get("properties", {}))
            merged["required"] += part.get("required", [])
        return merged

    def _reference(self, reference: Any) -> str:
        target = self._resolve(reference)
        if reference not in self.references:
            name = f"ref-{len(self.references)}"
            self.references[reference] = name
            self._add(name, self._inside(str(reference), target))
        return self.references[reference]

    def _resolve(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            self._fail(f"the $ref {str(reference)[:80]!r} is outside the schema: only '#/…' is supported")
        target: Any = self.schema
        for step in reference[1:].strip("/").split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, Sequence) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            elif isinstance(target, Mapping) and key in target:
                target = target[key]
            elif step:
                self._fail(f"the $ref {reference[:80]!r} is not in the schema")
        return target

    def _literal(self, value: Any) -> str:
        try:
            return quote(json.dumps(value, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            self._fail(f"a value is not JSON: {' '.join(str(error).split())[:100]}")

    def _inside(self, step: str, schema: Any) -> str:
        self.path.append(step)
        text = self._visit(schema)
        self.path.pop()
        return text

    def _any_of(self, texts: list[str]) -> str:
        return texts[0] if len(texts) == 1 else "(" + " | ".join(texts) + ")"

    def _known(self, name: str) -> str:
        if name not in self.rules:
            self.rules[name] = RULES[name]
            for other in NEEDS.get(name, "").split():
                self._known(other)
        return name

    def _rule(self, text: str) -> str:
        """Return a rule name for a text, or the text if it is a name already."""
        if text in self.rules or text in self.references.values():
            return text
        return self._add(f"part-{len(self.rules)}", text)

    def _add(self, name: str, text: str) -> str:
        self.n_characters += len(text)
        if self.n_characters > MAX_CHARACTERS:
            raise ArgumentError("the grammar of json_schema is too long: use a smaller schema")
        self.rules[name] = text
        return name

    def _fail(self, what: str) -> NoReturn:
        place = f"json_schema, at {'/'.join(self.path)[-100:]!r}" if self.path else "json_schema"
        raise ArgumentError(f"{place}: {what}")
