"""JSON schemas in one form: today's spellings, numbered references, and nothing that a grammar cannot express."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from labkit.checks import one_line
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.grammar.json_rules import KEYWORDS, RULES, SILENT, TYPES

MAX_NODES = 2_000
MAX_DEPTH = 60
_MAX_CONTAINERS = 100_000

Form = Any  # True (anything), False (nothing) or a dict of keywords
_LISTS = ("allOf", "anyOf", "oneOf")
_KNOWN = {"type", "enum", "const", "$ref", *_LISTS}.union(*KEYWORDS.values())
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_OLD = {"additionalItems", "dependencies", "dependentRequired", "dependentSchemas", "uniqueItems", "multipleOf"}


def fail(path: Sequence[str], what: str) -> NoReturn:
    """Raise an error that has the place in the schema."""
    place = f"json_schema, at {'/'.join(path)[-100:]!r}" if path else "json_schema"
    raise ArgumentError(f"{place}: {what}")


def given_schema(schema: Any) -> Mapping[str, Any]:
    """Return the schema that is given as a dict, as JSON text or by a pydantic class."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"json_schema is not valid JSON: {one_line(error, 200)}") from error
        if not isinstance(schema, dict):
            raise ArgumentError('json_schema must be a JSON object such as {"type": "object"}')
    elif isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        try:
            schema = schema.model_json_schema()
        except Exception as error:  # a field without a schema, a class that is not complete, a method that needs an object
            raise ArgumentError(f"json_schema: {schema.__name__} has no JSON schema: {one_line(error, 200)}") from error
    if not isinstance(schema, Mapping):
        hint = "; pass the pydantic class, not an object of it" if hasattr(type(schema), "model_json_schema") else ""
        given = type(schema).__name__
        raise ArgumentTypeError(f"json_schema must be a dict, its JSON text or a pydantic class, not {given}{hint}")
    return schema


class SchemaReader:
    """Read a schema; ``targets`` are the forms of all references in it, in the order of their numbers."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.targets: list[Form] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object gets the id of a target
        self._waiting: list[tuple[Any, Any, str]] = []
        self._n_nodes = 0
        _refuse_endless(schema)
        given = schema.get("$schema")
        self._draft = given if isinstance(given, str) else ""
        specification = specification_with(self._draft, default=DRAFT202012)
        resource = specification.create_resource(schema)
        self._specification = specification
        self.root = self._form(schema, Registry().resolver_with_root(resource), [])
        for target, resolver, name in self._waiting:  # it grows
            self.targets.append(self._form(target, resolver, [name]))

    def _form(self, schema: Any, resolver: Any, path: list[str]) -> Form:
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES or len(path) > MAX_DEPTH:
            refuse_size()
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            fail(path, f"expected a schema (a dict), not {type(schema).__name__}")
        self._refuse_unknown(schema, path)
        if "$id" in schema and "$ref" in schema and self._draft == "":
            fail(path, "'$id' next to '$ref' does nothing up to draft 7, and changes the '$ref' since then: add '$schema'")
        if path and self._specification.id_of(schema) is not None:
            resolver = resolver.in_subresource(self._specification.create_resource(schema))

        def read(step: str, part: Any) -> Form:
            return self._form(part, resolver, [*path, step])

        form = {key: value for key, value in schema.items() if key in _KNOWN}
        _read_content(form, schema, path)
        _read_types(form, path)
        _read_values(form, path)
        _read_bounds(form, schema, path)
        for key in ("additionalProperties", "propertyNames", "unevaluatedProperties", "unevaluatedItems"):
            if key in schema:
                form[key] = read(key, schema[key])
        for key in ("properties", "patternProperties"):
            if key in schema:
                if not isinstance(schema[key], Mapping):
                    fail(path, f"{key!r} must be a dict")
                form[key] = {str(name): read(f"{key}/{name}", part) for name, part in schema[key].items()}
        if "required" in schema:
            form["required"] = _names(schema["required"], "'required'", path)
        self._read_items(form, schema, read, path)
        for key in _LISTS:
            if key in schema:
                form[key] = [read(f"{key}/{i}", part) for i, part in enumerate(_list(schema[key], key, path))]
        for options in _dependent(schema, read, path):
            form["allOf"] = [*form.get("allOf", []), {"anyOf": options}]
        if "$ref" in schema:
            form["$ref"] = self._reference(schema["$ref"], resolver, path)
        return form

    def _read_items(self, form: dict[str, Any], schema: Mapping[str, Any], read: Any, path: list[str]) -> None:
        prefix, items = schema.get("prefixItems"), schema.get("items", True)
        name = "prefixItems"
        if isinstance(items, list):  # a tuple, up to draft 2019-09
            name, prefix, items = "items", items, schema.get("additionalItems", True)
        if prefix is not None:
            if not isinstance(prefix, Sequence) or isinstance(prefix, str):
                fail(path, "'prefixItems' must be a list of schemas")
            form["prefixItems"] = [read(f"{name}/{index}", part) for index, part in enumerate(prefix)]
            form.pop("items", None)
        if "items" in schema and items is not True:
            form["items"] = read("items", items)

    def _reference(self, reference: Any, resolver: Any, path: list[str]) -> str:
        try:
            found = resolver.lookup(reference)
        except (Unresolvable, ValueError, TypeError, AttributeError, KeyError, IndexError):
            inside = isinstance(reference, str) and reference.startswith("#")
            what = "is not in the schema" if inside else "is outside the schema: only references within it are supported"
            fail(path, f"the $ref {str(reference)[:80]!r} {what}")
        key = id(found.contents)
        if isinstance(found.contents, bool) or key not in self._numbers:
            self._numbers[key] = len(self._waiting)
            self._kept.append(found.contents)
            self._waiting.append((found.contents, found.resolver, reference))
        return f"#/$defs/{self._numbers[key]}"

    @staticmethod
    def _refuse_unknown(schema: Mapping[str, Any], path: list[str]) -> None:
        for key in schema:
            if not isinstance(key, str):
                fail(path, f"{key!r} is not supported: remove it, and check the answer yourself")
            quiet = key in SILENT or (key.startswith(("x-", "$")) and key not in ("$dynamicRef", "$recursiveRef"))
            trivial = (key == "uniqueItems" and schema[key] is False) or (key == "multipleOf" and _is_one(schema))
            if not (key in _KNOWN or quiet or trivial or key in _OLD - {"uniqueItems", "multipleOf"}):
                fail(path, f"{key!r} is not supported: remove it, and check the answer yourself")


def refuse_size() -> NoReturn:
    """Refuse a schema that is too large."""
    raise ArgumentError(
        f"json_schema has more than {MAX_NODES:,} parts, or parts nested deeper than {MAX_DEPTH}: use a smaller one"
    )


def _refuse_endless(schema: Any) -> None:
    """Refuse a schema that contains itself, or is very large, before references are looked for in all of it."""
    waiting, n = [(schema, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        n += 1
        if n > _MAX_CONTAINERS or depth > 5 * MAX_DEPTH:
            refuse_size()
        inner = part.values() if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else ()
        waiting += [(value, depth + 1) for value in inner if isinstance(value, (Mapping, list, tuple))]


def _is_one(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "integer" and schema["multipleOf"] == 1


def _list(value: Any, key: str, path: list[str]) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        fail(path, f"{key!r} must be a non-empty list")
    return value


def _names(value: Any, what: str, path: list[str]) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(name, str) for name in value):
        fail(path, f"{what} must be a list of names")
    return list(dict.fromkeys(value))


def _read_content(form: dict[str, Any], schema: Mapping[str, Any], path: list[str]) -> None:
    if schema.get("contentMediaType") == "application/json":
        fail(path, "JSON inside a text is not supported: use the schema of the content itself")
    if schema.get("contentEncoding") == "base64" and "string" in form.get("type", "string"):
        form["format"] = form["format"] if f"format-{form.get('format')}" in RULES else "base64"


def _read_types(form: dict[str, Any], path: list[str]) -> None:
    if "type" not in form:
        return
    given = form["type"]
    kinds = [given] if isinstance(given, str) else given
    if not isinstance(kinds, Sequence) or not kinds or any(kind not in TYPES for kind in kinds):
        fail(path, f"unknown type {str(given)[:40]!r}: choose one of {', '.join(TYPES)}")
    form["type"] = list(dict.fromkeys(kinds))


def _read_values(form: dict[str, Any], path: list[str]) -> None:
    if "const" in form:
        value = form.pop("const")
        if "enum" in form:
            form["allOf"] = [{"enum": [value]}, *form.get("allOf", [])]
        else:
            form["enum"] = [value]
    if "enum" in form:
        form["enum"] = list(_list(form["enum"], "enum", path))


def _read_bounds(form: dict[str, Any], schema: Mapping[str, Any], path: list[str]) -> None:
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(form.get(exclusive), bool) and form.pop(exclusive) and inclusive in form:  # draft 4
            form[exclusive] = form.pop(inclusive)
    for key in _BOUNDS:
        value = form.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
            fail(path, f"{key!r} must be a finite number")
    for key in ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"):
        value = form.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value != int(value):
            fail(path, f"{key!r} must be a whole number, 0 or more")
        if key in form:
            form[key] = int(value)


def _dependent(schema: Mapping[str, Any], read: Any, path: list[str]) -> list[list[Form]]:
    """Return the alternatives that "if it has this property, then …" means: it does not have it, or it has and …."""
    found = []
    for key in ("dependentRequired", "dependentSchemas", "dependencies"):
        if not isinstance(schema.get(key, {}), Mapping):
            fail(path, f"{key!r} must be a dict")
        for name, needed in schema.get(key, {}).items():
            has: Form
            if isinstance(needed, list):
                has = {"required": [name, *_names(needed, f"{key!r}", path)]}
            else:
                has = {"allOf": [{"required": [name]}, read(f"{key}/{name}", needed)]}
            found.append([{"properties": {name: False}}, has])
    return found
