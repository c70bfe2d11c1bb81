"""JSON schemas -> GBNF: every text that follows the grammar parses and matches the schema.

llama-cpp-python has a converter too, but its strings may contain raw line breaks (invalid JSON), it silently drops bounds on
numbers, and a ``maxLength`` of 1,000 becomes a thousand nested groups. This converter refuses unsupported keywords.

The grammar does not cover every matching text: properties are in the schema's order, without others than it names; where no
type is given, the keywords imply it; a pattern matches the whole text; formats give their common texts. A text has at
most one space where JSON allows any, numbers have up to 16 digits, repetitions go to 2,000. Schemas side by side are
joined (`schema_join`); alternatives of a ``oneOf`` are narrowed so that no text matches two, or the schema is refused.

References
----------
JSON Schema 2020-12, "Validation"; llama.cpp ``grammars/README.md``, "JSON schemas".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from labkit.errors import ArgumentError
from labkit.grammar.check import MAX_REPEATS, check_grammar, endless_rules
from labkit.grammar.json_rules import KEYWORDS, LENGTHS, NEEDS, RULES, SAME_FORMATS, separated, times
from labkit.grammar.number_range import integer_range, number_range
from labkit.grammar.regex import grammar_of_pattern, quote
from labkit.grammar.schema_form import MAX_DEPTH, MAX_NODES, Form, SchemaReader, fail, given_schema, refuse_size
from labkit.grammar.schema_join import CIRCULAR, COMBINING, TWO_PATTERNS, Joiner, OverlapError, both, kinds_of, property_form

MAX_CHARACTERS = 1_000_000
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]')
_NAMES = re.compile(r"[a-z][a-z0-9-]*")


def grammar_of_schema(schema: Any) -> str:
    """Convert a JSON schema (dict, JSON text or pydantic class) to a GBNF grammar; refuse what a grammar cannot express.

    Examples
    --------
    >>> print(grammar_of_schema({"type": "array", "items": {"type": "boolean"}, "maxItems": 3}))
    root ::= "[" ws (part-2)? "]"
    boolean ::= "true" | "false"
    part-2 ::= boolean ("," ws boolean){0,2} ws
    ws ::= " "?
    """
    try:
        return check_grammar(_Converter(given_schema(schema)).convert())
    except _NothingError as error:
        raise ArgumentError(f"{error}: no text matches this schema") from None
    except RecursionError:
        raise ArgumentError(CIRCULAR) from None
    except ArgumentError as error:
        place, _, reason = str(error).partition(": ")
        if not place.startswith("grammar error"):
            raise
        circular = "a $ref leads back to itself, and a text of it would never begin: use a simpler one"
        raise ArgumentError(f"json_schema: {circular if 'begins with itself' in reason else reason}") from None


class _NothingError(ArgumentError):
    """No text matches a part of the schema; another part may be chosen."""


class _Converter:
    """Walk a schema's form and write a rule for each part."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.reader = SchemaReader(schema)
        self.joiner = Joiner(self.reader.targets)
        self.rules: dict[str, str] = {}
        self.references: dict[str, str | _NothingError] = {}
        self.endless: set[str] = set()
        self.open: list[str] = []
        self.path: list[str] = []
        self.n_nodes = self.n_characters = 0

    def convert(self) -> str:
        grammar = self._write()
        if self.references and (endless := endless_rules(grammar)):
            # A part that always contains itself: write it again, without that.
            self.endless = {reference for reference, name in self.references.items() if name in endless}
            self.rules, self.references, self.n_nodes, self.n_characters = {}, {}, 0, 0
            grammar = self._write()
        return grammar

    def _write(self) -> str:
        self._add("root", self._visit(self.reader.root))
        used, waiting = {"root"}, ["root"]
        while waiting:
            names = _NAMES.findall(_QUOTED.sub("", self.rules[waiting.pop()]))
            new = {name for name in names if name in self.rules} - used
            used |= new
            waiting += new
        names = sorted(used, key=lambda name: (name != "root", name))
        return "\n".join(f"{name} ::= {self.rules[name]}" for name in names)

    def _visit(self, form: Form) -> str:
        """Return the grammar of one part."""
        self.n_nodes += 1
        if self.n_nodes > MAX_NODES or len(self.path) > MAX_DEPTH:
            refuse_size()
        if form is True:
            return self._known("value")
        if form is False:
            self._nothing("nothing is allowed here")
        if set(form) == {"$ref"}:
            return self._reference(form["$ref"])
        if set(form) == {"anyOf"}:
            return self._first_of("anyOf", form["anyOf"], self._visit)
        combines = any(key in form for key in (*COMBINING, "unevaluatedProperties", "unevaluatedItems"))
        if not combines and not ("enum" in form and len(form) > 1):
            return self._plain(form)
        try:
            return self._first_of("", self.joiner.plain(form), self._plain)
        except OverlapError:
            self._fail(
                "a text may match two alternatives of 'oneOf': use 'anyOf', or give each a property with its own 'const'"
            )

    def _first_of(self, step: str, forms: Sequence[Form], write: Callable[[Form], str]) -> str:
        """Write alternatives, without those that no text matches."""
        texts: list[str] = []
        failure: _NothingError | None = None
        for index, form in enumerate(forms):
            try:
                text = self._inside(f"{step}/{index}", form, write) if step else write(form)
            except _NothingError as error:
                failure = failure or error
            else:
                texts.append(text)
        if not texts:
            if failure is not None:
                raise failure
            self._nothing("no text matches all that is required here")
        return self._any_of(list(dict.fromkeys(texts)))

    def _plain(self, form: Mapping[str, Any]) -> str:
        if "enum" in form:
            return self._any_of([self._literal(value) for value in form["enum"]])
        return self._first_of("", kinds_of(dict(form)), lambda kind: self._of_type(kind, form))

    def _of_type(self, kind: str, form: Mapping[str, Any]) -> str:
        if not KEYWORDS.get(kind, set()) & set(form):
            return self._known(kind)
        return {"object": self._object, "array": self._array, "string": self._string}.get(kind, self._bounded)(form, kind)

    def _object(self, form: Mapping[str, Any], kind: str) -> str:
        least, most = self._bounds(form, "minProperties", "maxProperties")
        required = form.get("required", [])
        names = list(dict.fromkeys([*form.get("properties", {}), *required]))
        if not names:
            return self._map(form, least, most)
        self._known("ws")
        allows = self.joiner.validator(form.get("propertyNames", True))
        pairs: list[tuple[str, bool]] = []
        for name in names:
            try:
                part = property_form(dict(form), name) if allows(name) else False
                value = self._rule(self._inside(f"properties/{name}", part))
            except _NothingError as error:
                if name in required:
                    self._nothing(f"'required' names {name!r}, which nothing matches ({str(error).rpartition(': ')[2]})")
            else:
                pairs.append((self._rule(f'{self._literal(name)} ":" ws {value}'), name in required))
        return f'"{{" ws {self._members(pairs, least, most)}'

    def _members(self, pairs: list[tuple[str, bool]], least: int, most: int | None) -> str:
        """Write the properties in their order, at least and at most so many."""
        cap = max(1, least, most or 0)  # more than these need not be distinguished
        tails: list[str | None] = [None if n < least else 'ws "}"' if n else '"}"' for n in range(cap + 1)]
        for pair, is_required in reversed(pairs):
            after, tails = tails, []
            for n in range(cap + 1):
                rest = after[min(n + 1, cap)] if n != most else None
                here = None if rest is None else f'"," ws {pair} {rest}' if n else f"{pair} {rest}"
                skipped = None if is_required else after[n]
                if here is not None and skipped is not None:
                    here = f'("," ws {pair})? {rest}' if n and rest == skipped else f"{here} | {skipped}"
                text = here or skipped
                tails.append(None if text is None else self._rule(text))
        if tails[0] is None:
            self._nothing("no object has as many properties as 'required', 'minProperties' and 'maxProperties' ask for")
        return tails[0]

    def _map(self, form: Mapping[str, Any], least: int, most: int | None) -> str:
        """Write an object without named properties."""
        patterns = form.get("patternProperties", {})
        key = [{"type": ["string"], "pattern": pattern} for pattern in patterns] or [{"type": ["string"]}]
        values = both(*patterns.values()) if patterns else form.get("additionalProperties", True)
        if least > 1:
            self._fail("'minProperties' of more than 1 needs names in 'properties', because generated names may repeat")
        try:
            names = self._rule(self._visit(both({"anyOf": key}, form.get("propertyNames", True))))
            value = self._rule(self._inside("additionalProperties", values))
        except _NothingError:
            most = 0
        self._known("ws")
        if most == 0:
            if least:
                self._nothing("'minProperties' needs a property, but none is allowed")
            return '"{" ws "}"'
        pair = f'{names} ":" ws {value}'
        some = f'{pair} ("," ws {pair}){times(0, None if most is None else most - 1)} ws'
        return f'"{{" ws {some} "}}"' if least else f'"{{" ws ({some})? "}}"'

    def _array(self, form: Mapping[str, Any], kind: str) -> str:
        least, most = self._bounds(form, "minItems", "maxItems")
        prefix, items = form.get("prefixItems", []), form.get("items", True)
        if "prefixItems" in form and "items" not in form:
            items = items if least > len(prefix) else False
        fixed: list[str] = []
        for index, part in enumerate(prefix[:most]):
            try:
                fixed.append(self._rule(self._inside(f"prefixItems/{index}", part)))
            except _NothingError:
                most, items = index, False
                break
        self._known("ws")
        left = max(least - len(fixed), 0)
        more = None if most is None else most - len(fixed)
        try:
            item = self._rule(self._inside("items", items)) if more != 0 else ""
        except _NothingError:
            item = ""
        if not item:
            if left:
                self._nothing("'minItems' is more than 'prefixItems' and 'items' allow")
            return f'"[" ws {" ".join([*separated(fixed), "ws"]) if fixed else ""} "]"'
        if fixed:
            return f'"[" ws {" ".join(separated(fixed))} ("," ws {item}){times(left, more)} ws "]"'
        some = self._rule(f'{item} ("," ws {item}){times(max(left - 1, 0), None if more is None else more - 1)} ws')
        return f'"[" ws {some if left else f"({some})?"} "]"'

    def _string(self, form: Mapping[str, Any], kind: str) -> str:
        least, most = self._bounds(form, "minLength", "maxLength")
        given = form.get("format", ())
        formats = {SAME_FORMATS.get(one, one) for one in ([given] if isinstance(given, str) else given)}
        formats = {one for one in formats if f"format-{one}" in RULES}
        if formats:
            name = formats.pop()
            shortest, longest = LENGTHS[name]
            if formats or "pattern" in form or shortest < least or (most is not None and longest > most):
                self._fail("'format' cannot be combined with another one, with 'pattern' or with these bounds on the length")
            return self._known(f"format-{name}")
        if "pattern" not in form:
            return f'"\\"" {self._known("char")}{times(least, most)} "\\""'
        pattern = form["pattern"]
        if not isinstance(pattern, str):
            self._fail(f"'pattern' must be text, not {type(pattern).__name__}")
        if pattern.startswith(TWO_PATTERNS):
            self._fail("two different values of 'pattern' cannot be combined: write one")
        try:
            return f'"\\"" ({grammar_of_pattern(pattern, least, most)}) "\\""'
        except ValueError as error:
            self._fail(str(error))

    def _bounded(self, form: Mapping[str, Any], kind: str) -> str:
        names = {"minimum": "minimum", "maximum": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}
        found = (integer_range if kind == "integer" else number_range)(
            **{name: form.get(key) for name, key in names.items()}
        )
        if found is None:
            self._nothing(f"no {kind} is within the bounds, or none that the grammar can express")
        return found

    def _bounds(self, form: Mapping[str, Any], low: str, high: str) -> tuple[int, int | None]:
        least, most = form.get(low, 0), form.get(high)
        if most is not None and most > MAX_REPEATS:
            most = MAX_REPEATS if least <= MAX_REPEATS else most  # narrower, and as long as a grammar allows
        if least > MAX_REPEATS:
            self._fail(f"{low!r} is more than {MAX_REPEATS:,}, the limit of llama.cpp's grammars")
        if most is not None and most < least:
            self._nothing(f"{high!r} is less than {low!r}")
        return least, most

    def _reference(self, reference: str) -> str:
        if reference in self.endless and reference in self.open:
            self._nothing(f"{reference!r} contains itself without an end")
        if reference not in self.references:
            name = f"ref-{len(self.references)}"
            self.references[reference] = name
            self.open.append(reference)
            try:
                self._add(name, self._inside(reference, self.joiner.target(reference)))
            except _NothingError as error:
                self.references[reference] = error
            finally:
                self.open.pop()
        found = self.references[reference]
        if isinstance(found, _NothingError):
            raise found
        return found

    def _literal(self, value: Any) -> str:
        try:
            return quote(json.dumps(value, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            self._fail(f"a value is not JSON: {' '.join(str(error).split())[:100]}")

    def _inside(self, step: str, form: Form, write: Callable[[Form], str] | None = None) -> str:
        self.path.append(step)
        try:
            return (write or self._visit)(form)
        finally:
            self.path.pop()

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
        fail(self.path, what)

    def _nothing(self, what: str) -> NoReturn:
        try:
            fail(self.path, what)
        except ArgumentError as error:
            raise _NothingError(str(error)) from None
