"""GBNF grammars read independently of labkit: random texts that follow one, and whether a text does."""

from __future__ import annotations

import random
import re
from typing import Any

Node = tuple[
    Any, ...
]  # ("text", str) ("set", ranges, negated) ("rule", name) ("seq", nodes) ("or", nodes) ("times", node, a, b)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_CHAR = re.compile(r"\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\(.)|([^\\])", re.DOTALL)
_MANY = 6


class Grammar:
    """A grammar of literals, sets, groups, alternatives and repetitions, a rule per line, as labkit writes them."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Node] = {}
        for line in text.split("\n"):
            name, _, body = line.partition(" ::= ")
            self._body, self._at = body, 0
            self.rules[name] = self._either()
            assert self._at == len(body), (body, self._at)
        self._costs = dict.fromkeys(self.rules, 10**6)
        for _ in self.rules:
            new = {name: min(self._costs[name], self._cost(node)) for name, node in self.rules.items()}
            if new == self._costs:
                break
            self._costs = new

    def text(self, source: random.Random, budget: int = 200) -> str:
        """Return a random text; after so many steps the shortest ways are taken."""
        self._random, self._left = source, budget
        return "".join(self._write(self.rules["root"]))

    def _write(self, node: Node) -> list[str]:
        self._left -= 1
        kind, value = node[0], node[1]
        if kind == "text":
            return [value]
        if kind == "set":
            low, high = self._random.choice(value)
            return [chr(self._random.choice([low, high, self._random.randint(low, high)]))]
        if kind == "rule":
            return self._write(self.rules[value])
        if kind == "seq":
            return [text for part in value for text in self._write(part)]
        if kind == "or":
            choices = value if self._left > 0 else [min(value, key=self._cost)]
            return self._write(self._random.choice(choices))
        least, most = node[2], node[3]
        high = least if self._left <= 0 else min(least + _MANY, 10**9 if most is None else most)
        high = most if most is not None and most <= 40 and self._left > 0 and self._random.random() < 0.1 else high
        return [text for _ in range(self._random.randint(least, high)) for text in self._write(value)]

    def _cost(self, node: Node) -> int:
        kind, value = node[0], node[1]
        if kind == "rule":
            return self._costs[value] + 1
        if kind == "seq":
            return sum(map(self._cost, value))
        if kind == "or":
            return min(map(self._cost, value))
        return int(node[2]) * self._cost(value) if kind == "times" else 1

    def _either(self) -> Node:
        options = [self._sequence()]
        while self._body.startswith("|", self._at):
            self._at += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else ("or", options)

    def _sequence(self) -> Node:
        nodes: list[Node] = []
        while True:
            self._at += len(re.compile(" *").match(self._body, self._at)[0])  # type: ignore[index]  # it always matches
            char = self._body[self._at : self._at + 1]
            if char in ("", "|", ")"):
                return ("seq", nodes)
            if char in "*+?{":
                nodes.append(self._times(nodes.pop()))
            elif char == "(":
                self._at += 1
                nodes.append(self._either())
                assert self._body[self._at] == ")"
                self._at += 1
            elif char in '"[':
                nodes.append(self._quoted(char))
            else:
                match = re.compile("[a-z0-9-]+").match(self._body, self._at)
                assert match, self._body[self._at :]
                self._at = match.end()
                nodes.append(("rule", match[0]))

    def _times(self, node: Node) -> Node:
        match = re.compile(r"[*+?]|\{(\d+)(,?)(\d*)\}").match(self._body, self._at)
        assert match
        self._at = match.end()
        if match[1] is None:
            return ("times", node, *{"*": (0, None), "+": (1, None), "?": (0, 1)}[match[0]])
        return ("times", node, int(match[1]), int(match[3]) if match[3] else None if match[2] else int(match[1]))

    def _quoted(self, char: str) -> Node:
        end = {'"': '"', "[": "]"}[char]
        self._at += 1
        found: list[tuple[str, bool]] = []
        while self._body[self._at] != end:
            match = _CHAR.match(self._body, self._at)
            assert match
            code = match[1] or match[2] or match[3]
            found.append((chr(int(code, 16)) if code else _ESCAPES.get(match[4], match[4]) or match[5], match[5] == "-"))
            self._at = match.end()
        self._at += 1
        chars = [char for char, _ in found]
        if char == '"':
            return ("text", "".join(chars))
        ranges, index = [], 0
        while index < len(chars):
            is_range = index + 2 < len(chars) and found[index + 1][1]
            ranges.append((ord(chars[index]), ord(chars[index + 2 if is_range else index])))
            index += 3 if is_range else 1
        return ("set", ranges)
