"""Limits of llama.cpp on a grammar's rules: endless recursion, and the number of ways to begin.

A rule is a list of alternatives, each a list of symbols: the key of a rule, or None for anything that consumes a character.
Repetitions and groups are separate rules, as in llama.cpp.

References
----------
llama.cpp ``src/llama-grammar.cpp``: ``llama_grammar_detect_left_recursion`` (which detects an empty rule only if one of its
alternatives is empty itself, and visits a rule once for each way to reach it), ``llama_grammar_advance_stack``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Key = str | tuple[str, int]
Symbol = Key | None
Rules = dict[Key, list[list[Symbol]]]


def find_ending(rules: Rules) -> set[Symbol]:
    """Return the rules that can produce a text that ends: not ``list ::= "[" list "]"``."""
    return find_nullable(rules, {None})


def find_nullable(rules: Rules, known: Iterable[Symbol] = ()) -> set[Symbol]:
    """Return the rules that can produce the empty text, or a text of ``known`` symbols only."""
    users: dict[Key, list[Key]] = {key: [] for key in rules}
    for key, alternates in rules.items():
        for symbol in {symbol for symbols in alternates for symbol in symbols if symbol is not None}:
            users[symbol].append(key)
    nullable: set[Symbol] = set(known)
    todo = list(rules)
    while todo:
        key = todo.pop()
        if key not in nullable and any(all(symbol in nullable for symbol in symbols) for symbols in rules[key]):
            nullable.add(key)
            todo += users[key]
    return nullable


def find_left_recursion(rules: Rules, nullable: set[Symbol]) -> Key | None:
    """Return a rule because of which llama.cpp would refuse the grammar or never finish; None if there is none."""
    empty: set[Symbol] = {key for key, alternates in rules.items() if not all(alternates)}
    seen = {key: {ref for ref, _ in _leading(alternates, empty)} for key, alternates in rules.items()}
    for group in _strongly_connected(seen):
        if len(group) > 1 or group[0] in seen[group[0]]:
            return _named(group)
    edges = {key: list(_leading(alternates, nullable)) for key, alternates in rules.items()}
    for group in _strongly_connected({key: {ref for ref, _ in refs} for key, refs in edges.items()}):
        members = set(group)
        # A cycle with nothing after it ends; a cycle with something after it grows without end.
        if any(ref in members and not is_last for key in group for ref, is_last in edges[key]):
            return _named(group)
    return None


def ways_to_begin(rules: Rules, nullable: set[Symbol]) -> int:
    """Return the number of ways from a rule to its first characters, the maximum over all rules."""
    edges = {key: [ref for ref, _ in _leading(alternates, nullable)] for key, alternates in rules.items()}
    ways: dict[Key, int] = {}
    for group in _strongly_connected({key: set(refs) for key, refs in edges.items()}):  # innermost first
        members = set(group)
        total = sum(len(rules[key]) + sum(ways[ref] for ref in edges[key] if ref not in members) for key in group)
        ways.update(dict.fromkeys(group, total))
    return max(ways.values(), default=0)


def _leading(alternates: list[list[Symbol]], may_be_empty: set[Symbol]) -> Iterator[tuple[Key, bool]]:
    """Yield the rules that can begin this rule, and whether nothing follows them."""
    for symbols in alternates:
        for index, symbol in enumerate(symbols):
            if symbol is None:
                break
            yield symbol, index == len(symbols) - 1
            if symbol not in may_be_empty:
                break


def _named(group: Iterable[Key]) -> Key:
    return min(group, key=lambda key: (not isinstance(key, str), key))


def _strongly_connected(edges: dict[Key, set[Key]]) -> Iterator[list[Key]]:
    """Yield the strongly connected components, each after those it leads to (Tarjan, without recursion)."""
    order: dict[Key, int] = {}
    low: dict[Key, int] = {}
    path: list[Key] = []
    on_path: set[Key] = set()
    for root in edges:
        if root in order:
            continue
        work: list[tuple[Key, Iterator[Key]]] = []

        def visit(key: Key, work: list[tuple[Key, Iterator[Key]]] = work) -> None:
            order[key] = low[key] = len(order)
            path.append(key)
            on_path.add(key)
            work.append((key, iter(edges[key])))

        visit(root)
        while work:
            key, children = work[-1]
            child = next((child for child in children if child not in order or child in on_path), None)
            if child is not None:
                if child not in order:
                    visit(child)
                else:
                    low[key] = min(low[key], order[child])
                continue
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[key])
            if low[key] == order[key]:
                group = path[path.index(key) :] if path[-1] != key else [key]
                del path[len(path) - len(group) :]
                on_path.difference_update(group)
                yield group
