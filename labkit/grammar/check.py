"""Check GBNF grammars before llama.cpp reads them.

For a grammar that it cannot parse, llama.cpp prints a message and returns a null pointer. It hangs or exhausts the memory on
``{3,2}``, on rules that can begin in a million ways, and on a rule that begins with itself after something that may be
empty. Here each of these is a one-line error with its position.

References
----------
llama.cpp ``grammars/README.md`` (the language), ``src/llama-grammar.cpp`` (its parser, followed step by step).
"""

from __future__ import annotations

import re
import unicodedata
from typing import NoReturn

from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.grammar.rules import Key, Rules, Symbol, find_ending, find_left_recursion, find_nullable, ways_to_begin

MAX_REPEATS = 2000
MAX_DEPTH = 500
MAX_BYTES = 256 * 1024
MAX_ELEMENTS = 1_000_000
MAX_WAYS = 20_000
# Each of these is optional, and llama.cpp tries every combination for each character of each token.
MAX_EMPTY_REPEATS = 4

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_HEX = {"x": 2, "u": 4, "U": 8}
_TOKEN = re.compile(r"!?<(?:\[[0-9]{1,9}\]|[^<>\[\s][^<>\s]*)>")
_REPEAT = re.compile(r"\{[ \t]*([0-9]{1,9})[ \t]*(?:(,)[ \t]*([0-9]{1,9})?[ \t]*)?\}")


def check_grammar(grammar: str) -> str:
    """Return the grammar if llama.cpp can use it; errors have the line and the column."""
    if not isinstance(grammar, str):
        raise ArgumentTypeError(
            f"grammar must be GBNF text, not {type(grammar).__name__}: see llama.cpp's grammars/README.md"
        )
    grammar = grammar.removeprefix("\ufeff")  # a byte order mark, as some editors write it
    if len(grammar) > MAX_BYTES:
        raise ArgumentError(f"the grammar has {len(grammar):,} characters, at most {MAX_BYTES:,} are allowed")
    if "\x00" in grammar:
        raise ArgumentError("the grammar has a NUL character, where llama.cpp would stop reading: remove it")
    if any("\ud800" <= char <= "\udfff" for char in grammar):
        raise ArgumentError("the grammar has a lone surrogate, which is not a character: remove it")
    _Reader(grammar).read()
    return grammar


def tokens_in(grammar: str) -> list[str]:
    """Return the tokens in a checked grammar, such as ``<|im_end|>`` or ``<[7]>``; a model may not have them."""
    return _Reader(grammar).read().tokens if "<" in grammar else []


def endless_rules(grammar: str) -> set[str]:
    """Return the rules of a grammar that only texts without an end follow."""
    rules = _Reader(grammar).read().rules
    return {key for key in rules if isinstance(key, str)} - find_ending(rules)


_NAMED = {
    "\ufeff": "BYTE ORDER MARK",
    "ï": "BYTE ORDER MARK read with the wrong encoding",
    "_": "a rule's name has only A-Z, a-z, 0-9 and -",
    "'": "a text is in double quotes",
    "|": "alternatives go on in a new line if ( ) are around them, or if the line before ends with |",
}


def _named(char: str) -> str:
    """Name a character; those that nobody sees, by Unicode's names."""
    name = _NAMED.get(char)
    unseen = char > "\x7f" and not char.isalnum()
    return f"{char!a} ({name or unicodedata.name(char, 'no name')})" if name or unseen else repr(char)


class _Open:
    """The current sequence in a rule or in a group of it."""

    def __init__(self, key: Key, start: int, n_symbols: int) -> None:
        self.key, self.start, self.n_symbols = key, start, n_symbols
        self.alternates: list[list[Symbol]] = []
        self.begin()

    def begin(self) -> None:
        """Begin an alternative."""
        self.symbols: list[Symbol] = []
        self.last, self.weight, self.repeats = 0, 0, 1

    def add(self, symbols: list[Symbol], weight: int, repeats: int = 1) -> None:
        """Append one item; ``weight`` is the number of elements that llama.cpp makes of it."""
        self.last, self.weight, self.repeats = len(self.symbols), weight, repeats
        self.symbols += symbols


class _Reader:
    """GBNF -> rules as llama.cpp expands them; errors have a position."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.rules: Rules = {}
        self.places: dict[str, int] = {}
        self.symbols: set[Key] = set()
        self.elements = 0
        self.tokens: list[str] = []
        self.repeated: list[tuple[list[Symbol], int]] = []

    def read(self) -> _Reader:
        self._match(_SPACE_AND_LINES)
        while self.at < len(self.text):
            self._rule()
            self._match(_SPACE_AND_LINES)
        for name, at in self.places.items():
            if name not in self.rules:
                self._fail(f"rule {name!r} is used but not defined", at)
        if "root" not in self.rules:
            raise ArgumentError("the grammar has no rule named root, the start rule: add one, such as root ::= …")
        self._check_rules()
        return self

    def _check_rules(self) -> None:
        nullable = find_nullable(self.rules)
        recursive = find_left_recursion(self.rules, nullable)
        if recursive is not None:
            name = recursive if isinstance(recursive, str) else recursive[0]
            self._fail(
                f"rule {name!r} begins with itself (left recursion), which llama.cpp does not support: "
                "write 'list ::= item list?' rather than 'list ::= list item'",
                self.places[name],
            )
        for symbols, at in self.repeated:
            if all(symbol in nullable for symbol in symbols):
                self._fail("this repeats something that may be empty: repeat a part that is never empty", at)
        if ways_to_begin(self.rules, nullable) > MAX_WAYS:
            raise ArgumentError(
                f"the grammar has a rule that can begin in more than {MAX_WAYS:,} ways, and llama.cpp would try each of "
                "them: use fewer alternatives"
            )

    def _rule(self) -> None:
        start = self.at
        name = self._match(_NAME)
        if not name:
            self._fail(f"expected a rule's name of A-Z, a-z, 0-9 and -, not {_named(self.text[self.at])}")
        self._match(_SPACE)
        if not self.text.startswith("::=", self.at):
            self._fail(f"expected ::= after {name[:80]!r}")
        self.at += 3
        self._match(_SPACE_AND_LINES)
        self.places[name] = start
        self.symbols.add(name)
        self._body(name)
        if self.at < len(self.text) and self.text[self.at] not in "\r\n":
            self._fail(f"{_named(self.text[self.at])} was not expected here")

    def _body(self, name: str) -> None:
        """Read a rule's alternatives; groups are kept on a list, so deep nesting does not overflow the stack."""
        stack = [_Open(name, self.at, 0)]
        while True:
            top = stack[-1]
            char = self.text[self.at : self.at + 1]
            if char == "(":
                stack.append(self._open_group(name, len(stack)))
                continue
            if char == "|":
                self.at += 1
                top.alternates.append(top.symbols)
                top.begin()
                self._match(_SPACE_AND_LINES)
                continue
            if char and char in "*+?{":
                self._repeat(top, name)
            elif not char or not self._item(top, char):
                top.alternates.append(top.symbols)
                self.rules[top.key] = top.alternates
                if len(stack) == 1:
                    return
                self._close_group(stack)
            self._match(_SPACE_AND_LINES if len(stack) > 1 else _SPACE)

    def _open_group(self, name: str, depth: int) -> _Open:
        start = self.at
        if depth > MAX_DEPTH:
            self._fail(f"groups nested deeper than {MAX_DEPTH}")
        self.at += 1
        self._match(_SPACE_AND_LINES)
        n_symbols = len(self.symbols)
        return _Open(self._new_rule(name), start, n_symbols)

    def _close_group(self, stack: list[_Open]) -> None:
        group = stack.pop()
        if not self.text.startswith(")", self.at):
            self._fail("this group has no closing )", group.start)
        self.at += 1
        stack[-1].add([group.key], 1, max(1, len(self.symbols) - group.n_symbols))

    def _item(self, top: _Open, char: str) -> bool:
        if char in '"[':
            size = self._quoted('"' if char == '"' else "]")
            top.add([None] if size else [], size)
            self._count(size)
        elif char == ".":
            self.at += 1
            top.add([None], 1)
        elif char in "<!":
            token = self._match(_TOKEN)
            if not token:
                self._fail("expected a token such as <[123]> or <|name|>")
            self.tokens.append(token.removeprefix("!"))
            top.add([None], 1)
        elif name := self._match(_NAME):
            self.places.setdefault(name, self.at - len(name))
            self.symbols.add(name)
            top.add([name], 1)
        else:
            return False
        return True

    def _repeat(self, top: _Open, name: str) -> None:
        start = self.at
        if top.last == len(top.symbols):
            self._fail(f"{self.text[self.at]!r} has nothing before it to repeat")
        least, most = self._times()
        if most is not None and most < least:
            self._fail(f"{{{least},{most}}} has a maximum below its minimum", start)
        total = most or least or 1
        if top.repeats * total > MAX_REPEATS:
            self._fail(f"more than {MAX_REPEATS:,} repetitions", start)
        self._count(top.weight * (total + 1))
        item = top.symbols[top.last :]
        if max(least, most or 0) > MAX_EMPTY_REPEATS:
            self.repeated.append((item, start))
        if least == 0:
            del top.symbols[top.last :]
        top.symbols += item * (least - 1)
        optional: Symbol = None
        for index in range(1 if most is None else most - least):
            key = self._new_rule(name)
            again: list[Symbol] = [key] if most is None else [optional] if index else []
            self.rules[key] = [item + again, []]
            optional = key
        if optional is not None:
            top.symbols.append(optional)
        top.repeats *= total
        top.weight *= total

    def _times(self) -> tuple[int, int | None]:
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self.text[self.at])
        if simple is not None:
            self.at += 1
            return simple
        match = _REPEAT.match(self.text, self.at)
        if match is None:
            self._fail("expected a repetition such as {2}, {2,} or {2,5}")
        least = int(match[1])
        most = int(match[3]) if match[3] else None if match[2] else least
        if max(least, most or 0) > MAX_REPEATS:
            self._fail(f"more than {MAX_REPEATS:,} repetitions")
        self.at = match.end()
        return least, most

    def _new_rule(self, name: str) -> Key:
        key = (name, len(self.symbols))
        self.symbols.add(key)
        return key

    def _count(self, elements: int) -> None:
        self.elements += elements
        if self.elements > MAX_ELEMENTS:
            self._fail(f"with its repetitions expanded, the grammar has more than {MAX_ELEMENTS:,} elements")

    def _quoted(self, end: str) -> int:
        start = self.at
        self.at += 1
        negated = end == "]" and self.text.startswith("^", self.at)
        self.at += negated
        size = 0
        while not self.text.startswith(end, self.at):
            if self.at >= len(self.text):
                self._fail(f"this {self.text[start]} is never closed", start)
            self._char(halves=negated)
            size += 1
        self.at += 1
        return size

    def _char(self, *, halves: bool) -> None:
        if self.text[self.at] != "\\":
            self.at += 1
            return
        escape = self.text[self.at + 1 : self.at + 2]
        digits = _HEX.get(escape, 0)
        code = self.text[self.at + 2 : self.at + 2 + digits]
        if digits and not re.fullmatch(f"[0-9A-Fa-f]{{{digits}}}", code):
            self._fail(f"\\{escape} needs {digits} hexadecimal digits")
        if digits and int(code, 16) > 0x10FFFF:
            self._fail(f"\\{escape}{code} is above the last character, U+10FFFF")
        if digits and not halves and 0xD800 <= int(code, 16) <= 0xDFFF:
            self._fail(f"\\{escape}{code} is half of a character: write the whole one, such as \\U0001F600")
        if not digits and (not escape or escape not in '"[]\\trn-'):
            self._fail(f"unknown escape {ascii(chr(92) + escape)[1:-1]}")
        self.at += 2 + digits

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
        raise ArgumentError(f"grammar error at line {line}, column {column}: {what}")
