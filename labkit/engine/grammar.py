"""GBNF grammars and JSON schemas, read here before llama.cpp sees them.

llama.cpp answers a grammar that it cannot parse with a null pointer and a print, and one with ``{3,2}`` by filling
the memory. Here each fault is one line that says where it stands.

References
----------
llama.cpp ``grammars/README.md`` (the language), ``src/llama-grammar.cpp`` (its parser and the limit of 2,000 repetitions).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from labkit.errors import ArgumentError, ArgumentTypeError

__all__ = ["check_grammar", "grammar_of_schema"]

MAX_REPEATS = 2000
MAX_DEPTH = 60
MAX_BYTES = 256 * 1024

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_HEX = {"x": 2, "u": 4, "U": 8}
_TOKEN = re.compile(r"!?<(?:\[[0-9]{1,9}\]|[^<>\s]+)>")
_REPEAT = re.compile(r"\{\s*([0-9]{1,9})\s*(?:(,)\s*([0-9]{1,9})?\s*)?\}")


def check_grammar(grammar: str) -> str:
    """Return the grammar, sound and ready for llama.cpp.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        One line with the place (line and column) and what was expected there.

    Examples
    --------
    >>> check_grammar('root ::= "yes" | "no"')
    'root ::= "yes" | "no"'
    """
    if not isinstance(grammar, str):
        raise ArgumentTypeError(
            f"grammar must be GBNF text, not {type(grammar).__name__}: see llama.cpp's grammars/README.md"
        )
    if len(grammar) > MAX_BYTES:
        raise ArgumentError(f"the grammar has {len(grammar):,} characters; at most {MAX_BYTES:,} are taken")
    if "\x00" in grammar:
        raise ArgumentError("the grammar holds a NUL character, where llama.cpp would stop reading: remove it")
    _Reader(grammar).read()
    return grammar


def grammar_of_schema(schema: str | Mapping[str, Any]) -> str:
    """Turn a JSON schema (a dict, or its text) into a GBNF grammar, by llama-cpp-python's converter.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        When the schema is no JSON, or uses what the converter does not know.
    """
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    if not isinstance(schema, (str, Mapping)):
        raise ArgumentTypeError(f"json_schema must be a dict or its JSON text, not {type(schema).__name__}")
    try:
        text = schema if isinstance(schema, str) else json.dumps(dict(schema))
        if not isinstance(json.loads(text), dict):
            raise ArgumentError('json_schema must be a JSON object such as {"type": "object"}')
        grammar = str(json_schema_to_gbnf(text))
    except ArgumentError:
        raise
    except Exception as error:  # the converter answers an unknown schema with whatever it stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArgumentError(f"json_schema cannot be turned into a grammar: {reason[:200]}") from error
    return check_grammar(grammar)


class _Reader:
    """Recursive descent over GBNF, with the place of every fault."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.defined: set[str] = set()
        self.used: dict[str, int] = {}

    def read(self) -> None:
        self._skip(_SPACE_AND_LINES)
        while self.at < len(self.text):
            self._rule()
            self._skip(_SPACE_AND_LINES)
        for name, at in self.used.items():
            if name not in self.defined:
                self._fail(f"rule {name!r} is used but not defined", at)
        if "root" not in self.defined:
            raise ArgumentError("the grammar has no rule named root, where every text begins: add for example root ::= …")

    def _rule(self) -> None:
        name = self._match(_NAME)
        if not name:
            self._fail("expected a rule's name")
        self._skip(_SPACE)
        if not self.text.startswith("::=", self.at):
            self._fail(f"expected ::= after {name!r}")
        self.at += 3
        self._skip(_SPACE_AND_LINES)
        self._alternates(0)
        self.defined.add(name)
        if self.at < len(self.text) and self.text[self.at] not in "\r\n":
            self._fail(f"{self.text[self.at]!r} was not expected here")

    def _alternates(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._fail(f"groups nested deeper than {MAX_DEPTH}")
        self._sequence(depth)
        while self.text.startswith("|", self.at):
            self.at += 1
            self._skip(_SPACE_AND_LINES)
            self._sequence(depth)

    def _sequence(self, depth: int) -> None:
        repeats = 0  # 0: nothing here yet that could be repeated
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in "*+?{":
                repeats = self._repetition(repeats)
            elif self._item(char, depth):
                repeats = 1
            else:
                return
            self._skip(_SPACE_AND_LINES if depth else _SPACE)

    def _item(self, char: str, depth: int) -> bool:
        if char == '"':
            self._quoted('"')
        elif char == "[":
            self._quoted("]")
        elif char == "(":
            self._group(depth)
        elif char == ".":
            self.at += 1
        elif char in "<!":
            if not self._match(_TOKEN):
                self._fail("expected a token such as <[123]> or <|name|>")
        elif name := self._match(_NAME):
            self.used.setdefault(name, self.at - len(name))
        else:
            return False
        return True

    def _group(self, depth: int) -> None:
        start = self.at
        self.at += 1
        self._skip(_SPACE_AND_LINES)
        self._alternates(depth + 1)
        if not self.text.startswith(")", self.at):
            self._fail("this group has no closing )", start)
        self.at += 1

    def _repetition(self, repeats: int) -> int:
        start = self.at
        if not repeats:
            self._fail(f"{self.text[self.at]!r} has nothing before it to repeat")
        if self.text[self.at] != "{":
            self.at += 1
            return repeats
        match = _REPEAT.match(self.text, self.at)
        if match is None:
            self._fail("expected a repetition such as {2}, {2,} or {2,5}")
        least = int(match[1])
        most = int(match[3]) if match[3] else least
        self.at = match.end()
        if most < least:
            self._fail(f"{{{least},{most}}} asks for at most fewer than at least", start)
        if repeats * max(most, 1) > MAX_REPEATS:
            self._fail(f"more than {MAX_REPEATS:,} repetitions", start)
        return repeats * max(most, 1)

    def _quoted(self, end: str) -> None:
        start = self.at
        self.at += 1
        while not self.text.startswith(end, self.at):
            if self.at >= len(self.text):
                self._fail(f"this {self.text[start]} is never closed", start)
            self._char()
        self.at += 1

    def _char(self) -> None:
        if self.text[self.at] != "\\":
            self.at += 1
            return
        escape = self.text[self.at + 1 : self.at + 2]
        digits = _HEX.get(escape, 0)
        code = self.text[self.at + 2 : self.at + 2 + digits]
        if digits and not re.fullmatch(f"[0-9A-Fa-f]{{{digits}}}", code):
            self._fail(f"\\{escape} needs {digits} hexadecimal digits")
        if digits and int(code, 16) > 0x10FFFF:
            self._fail(f"\\{escape}{code} is beyond the last character, U+10FFFF")
        if not digits and (not escape or escape not in '"[]\\trn-'):
            self._fail(f"unknown escape \\{escape}")
        self.at += 2 + digits

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._match(pattern)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]

    def _fail(self, what: str, at: int | None = None) -> NoReturn:
        place = self.at if at is None else at
        line = self.text.count("\n", 0, place) + 1
        column = place - (self.text.rfind("\n", 0, place) + 1) + 1
        raise ArgumentError(f"the grammar is wrong at line {line}, column {column}: {what}")
