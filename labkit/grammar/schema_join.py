"""Join schemas that stand side by side: exactly, or not at all.

A form with ``allOf``, ``anyOf``, ``oneOf`` or a reference next to other keywords becomes a list of plain forms, of which a
text has to match one. A text that follows one of them matches the whole: where a choice has to be made, it is the narrower.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from labkit.errors import ArgumentError
from labkit.grammar.json_rules import KEYWORDS, TYPES
from labkit.grammar.schema_form import MAX_NODES, Form, refuse_size

CIRCULAR = "json_schema has references that are circular, or is nested too deeply: use a simpler one"
COMBINING = ("$ref", "allOf", "anyOf", "oneOf")
_MAX_DEPTH = 120  # joins inside joins, about four calls each: far from Python's limit, at which finalizers fail, too
TWO_PATTERNS = r"(?=[\s\S]*(?:"
_LARGER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_SMALLER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


class OverlapError(ValueError):
    """The alternatives of a oneOf may match the same text."""


class Joiner:
    """Join the forms of one schema."""

    def __init__(self, targets: Sequence[Form]) -> None:
        self.targets = targets
        self._n_joined = 0
        self._depth = 0

    def plain(self, form: Form) -> list[dict[str, Any]]:
        """Return plain forms (without combining keywords; a list of values is alone), one of which a text has to match."""
        self._n_joined += 1
        if self._n_joined > MAX_NODES:
            refuse_size()
        with self._deeper():
            return self._plain(form)

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        if self._depth == _MAX_DEPTH:
            raise ArgumentError(CIRCULAR)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def _plain(self, form: Form) -> list[dict[str, Any]]:
        if isinstance(form, bool):
            return [{}] if form else []
        found = [{key: value for key, value in form.items() if key not in COMBINING and not key.startswith("unevaluated")}]
        if "enum" in form and len(form) > 1:
            others = {key: value for key, value in form.items() if key != "enum"}
            return self._join_all([{"enum": form["enum"]}], others)
        for part in ([self.target(form["$ref"])] if "$ref" in form else []) + form.get("allOf", []):
            found = self._join_all(found, part)
        if "anyOf" in form:
            found = [joined for option in form["anyOf"] for joined in self._join_all(found, option)]
        if "oneOf" in form:
            found = self._one_of(found, form["oneOf"])
        for old, new in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
            if old in form:
                found = [one if "enum" in one else {new: form[old], **one} for one in found]
        return found

    def target(self, reference: str) -> Form:
        """Return what a reference means."""
        return self.targets[int(reference.rpartition("/")[2])]

    def _join_all(self, forms: list[dict[str, Any]], other: Form) -> list[dict[str, Any]]:
        if any("enum" in form for form in forms):
            allows = self.validator(other)
            values = [{"enum": [v for v in form["enum"] if allows(v)]} for form in forms if "enum" in form]
            open_forms = [form for form in forms if "enum" not in form]
            return [one for one in values if one["enum"]] + (self._join_all(open_forms, other) if open_forms else [])
        joined = []
        for form in forms:
            for option in self.plain(other):
                if "enum" in option:
                    joined += self._join_all([option], form)
                elif (both := _join(form, option)) is not None:
                    joined.append(both)
        self._n_joined += len(joined)
        return joined

    def validator(self, form: Form) -> Callable[[Any], bool]:
        """Return a function that checks values."""
        if isinstance(form, bool):
            return lambda _: form
        if set(form) == {"type"}:
            return lambda value: any(_is_of_type(value, kind) for kind in form["type"])
        from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # slow to import, and rarely needed

        definitions = {str(number): target for number, target in enumerate(self.targets)}
        checker = Draft202012Validator.FORMAT_CHECKER
        return Draft202012Validator({**form, "$defs": definitions}, format_checker=checker).is_valid  # type: ignore[no-any-return]  # a bool

    def _one_of(self, base: list[dict[str, Any]], options: Sequence[Form]) -> list[dict[str, Any]]:
        """Return the options, each without what matches another one too."""
        found = []
        for index, option in enumerate(options):
            for form in self._join_all(base, option):
                narrow: dict[str, Any] | None = form
                for other in [*options[:index], *options[index + 1 :]]:
                    narrow = None if narrow is None else self._without(narrow, other)
                if narrow is not None:
                    found.append(narrow)
        return found

    def _without(self, form: dict[str, Any], other: Form) -> dict[str, Any] | None:
        """Return a form none of whose texts matches the other; None for nothing."""
        if "enum" in form:
            allows = self.validator(other)
            return {"enum": left} if (left := [value for value in form["enum"] if not allows(value)]) else None
        for option in self.plain(other):
            narrow = self._apart(form, option)
            if narrow is None:
                raise OverlapError
            form = narrow
        return form

    def _apart(self, form: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
        """Return the form, perhaps narrower, if no text of it matches the other; None if one might."""
        if "enum" in form:
            allows = self.validator(other)
            return None if any(map(allows, form["enum"])) else form
        if "enum" in other:
            kinds = [kind for kind in TYPES if any(_is_of_type(value, kind) for value in other["enum"])]
            return None if set(kinds_of(form)) & {*kinds, *(["integer"] if "number" in kinds else [])} else form
        common = [kind for kind in kinds_of(form) if kind in other.get("type", TYPES) or _both_numbers(kind, other)]
        for kind in common:
            low, high = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}.get(
                kind, ("minimum", "maximum")
            )
            bounds = (form.get(low), form.get(high), other.get(low), other.get(high))
            if kind == "object":
                narrow = self._apart_by_property(form, other)
                if narrow is None:
                    return None
                form = narrow
            elif not (_is_less(bounds[1], bounds[2]) or _is_less(bounds[3], bounds[0])) or kind in ("null", "boolean"):
                return None
        return form

    def _apart_by_property(self, form: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
        mine, required = form.get("properties", {}), form.get("required", [])
        closed = bool({*mine, *required}) or form.get("additionalProperties") is False
        for name in other.get("required", []):
            if closed and name not in {*mine, *required}:
                return form
        for name in sorted({*mine, *required}, key=lambda name: name not in required):
            if self._values_differ(property_form(form, name), property_form(other, name)):
                return {**form, "required": list(dict.fromkeys([*required, name]))}
        for name in other.get("required", []):
            if name not in required:
                return {**form, "properties": {**mine, name: False}}
        return None

    def _values_differ(self, mine: Form, others: Form) -> bool:
        with self._deeper():
            return mine is not False and all(self._apart(a, b) is a for a in self.plain(mine) for b in self.plain(others))


def kinds_of(form: dict[str, Any]) -> list[str]:
    """Return the types that are written for a plain form: its own, or those that its keywords are about."""
    guessed = [kind for kind, keywords in KEYWORDS.items() if keywords & set(form) and kind != "integer"]
    return list(form.get("type", guessed or TYPES))


def property_form(form: dict[str, Any], name: str) -> Form:
    """Return what a form asks of the property of a name."""
    parts = [form["properties"][name]] if name in form.get("properties", {}) else []
    parts += [part for pattern, part in form.get("patternProperties", {}).items() if re.search(pattern, name)]
    return both(*(parts or [form.get("additionalProperties", True)]))


def both(*forms: Form) -> Form:
    """Return a form of what all the forms allow."""
    kept = [form for index, form in enumerate(forms) if form is not True and form not in forms[:index]]
    if False in kept:
        return False
    return True if not kept else kept[0] if len(kept) == 1 else {"allOf": kept}


def _join(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any] | None:
    """Return the plain form of what both plain forms allow; None for nothing."""
    joined = {**a, **b}
    if "type" in a and "type" in b:
        kinds = [kind for kind in TYPES if _has(a["type"], kind) and _has(b["type"], kind)]
        joined["type"] = [kind for kind in kinds if kind != "integer" or "number" not in kinds]
        if not kinds:
            return None
    for keys, choose in ((_LARGER, max), (_SMALLER, min)):
        joined.update({key: choose(a[key], b[key]) for key in keys if key in a and key in b})
    if "pattern" in a and "pattern" in b and a["pattern"] != b["pattern"]:
        joined["pattern"] = "".join(f"{TWO_PATTERNS}{one['pattern']}))" for one in (a, b))
    if "format" in a and "format" in b and a["format"] != b["format"]:
        joined["format"] = [*_as_list(a["format"]), *_as_list(b["format"])]
    if "propertyNames" in joined:
        joined["propertyNames"] = both(a.get("propertyNames", True), b.get("propertyNames", True))
    joined.update(_join_objects(a, b))
    joined.update(_join_arrays(a, b))
    return joined


def _join_objects(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    if names := {**a.get("properties", {}), **b.get("properties", {})}:
        joined["properties"] = {name: both(property_form(a, name), property_form(b, name)) for name in names}
    if patterns := {**a.get("patternProperties", {}), **b.get("patternProperties", {})}:
        rest = [one.get("additionalProperties", True) for one in (a, b)]
        own = [one.get("patternProperties", {}) for one in (a, b)]
        joined["patternProperties"] = {p: both(own[0].get(p, rest[0]), own[1].get(p, rest[1])) for p in patterns}
    if "additionalProperties" in a or "additionalProperties" in b:
        joined["additionalProperties"] = both(a.get("additionalProperties", True), b.get("additionalProperties", True))
    if "required" in a and "required" in b:
        joined["required"] = list(dict.fromkeys([*a["required"], *b["required"]]))
    return joined


def _join_arrays(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    prefixes, items = [one.get("prefixItems", []) for one in (a, b)], [one.get("items", True) for one in (a, b)]
    if length := max(map(len, prefixes)):
        padded = [prefix + [rest] * (length - len(prefix)) for prefix, rest in zip(prefixes, items, strict=True)]
        joined["prefixItems"] = [both(*pair) for pair in zip(*padded, strict=True)]
    if "items" in a or "items" in b:
        joined["items"] = both(*items)
    return joined


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _has(kinds: Sequence[str], kind: str) -> bool:
    return kind in kinds or (kind == "integer" and "number" in kinds)


def _both_numbers(kind: str, other: dict[str, Any]) -> bool:
    return kind in ("integer", "number") and bool({"integer", "number"} & set(other.get("type", TYPES)))


def _is_less(a: Any, b: Any) -> bool:
    return a is not None and b is not None and a < b


def _is_of_type(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and kind == "integer":
        return value.is_integer()
    kinds = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "null": type(None)}
    return kind != "boolean" and isinstance(value, kinds[kind])  # type: ignore[arg-type]  # types and tuples of them
