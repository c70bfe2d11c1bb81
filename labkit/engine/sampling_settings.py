"""The caller's sampling arguments, checked first: some values would crash the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from labkit.checks import check_int, check_number, check_text, one_line, shown
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.system import load_engine

MAX_SEED = 2**32 - 2  # the next one means "choose a seed at random" to llama.cpp
# Below this a temperature only overflows float32; its limit is the greedy choice.
COLDEST = 1e-4


def check_max_tokens(value: Any) -> int | None:
    """Return the requested number of tokens; None means until the text ends or the context is full."""
    if value is None:
        return None
    return check_int("max_tokens", value, 0, 2**31 - 1, hint="; None means until the context is full")


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How to choose the next token; every field is checked."""

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature < COLDEST


def check_sampling(temperature: Any, options: Mapping[str, Any]) -> SamplingSettings:
    """Check the ``**kwargs`` of ``generate_text``."""
    known = {"stop", "seed", "top_k", "top_p", "min_p", "repeat_penalty", "json_schema", "grammar"}
    for name in options:
        if name not in known:
            raise ArgumentTypeError(f"unknown argument {one_line(repr(name), 60)}: known are {', '.join(sorted(known))}")
    given = {name: value for name, value in options.items() if value is not None}
    return SamplingSettings(
        temperature=check_number("temperature", temperature, 0.0, 1e6),
        top_k=check_int("top_k", given.get("top_k", 40), 0, 2**31 - 1, hint="; 0 means all tokens"),
        top_p=check_number("top_p", given.get("top_p", 0.95), 0.0, 1.0),
        min_p=check_number("min_p", given.get("min_p", 0.05), 0.0, 1.0),
        repeat_penalty=check_number("repeat_penalty", given.get("repeat_penalty", 1.0), 0.01, 100.0),
        seed=check_int("seed", given["seed"], 0, MAX_SEED) if "seed" in given else None,
        stop=_check_stop(given.get("stop", ())),
        grammar=_check_grammar(given),
    )


def _check_stop(value: Any) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else value
    if isinstance(stops, (bytes, Mapping)) or not isinstance(stops, Sequence):
        raise ArgumentTypeError(f"stop must be a text or a list of texts, not {shown(value)}")
    for stop in stops:
        check_text("stop", stop)
        if not stop:
            raise ArgumentError("stop contains an empty text, which would end every text before it begins: remove it")
    return tuple(stops)


def _check_grammar(given: Mapping[str, Any]) -> str | None:
    if "grammar" in given and "json_schema" in given:
        raise ArgumentError("grammar and json_schema were both given: a text can follow one of them, so pass one")
    if "json_schema" in given:
        from labkit.grammar.json_schema import grammar_of_schema

        return grammar_of_schema(given["json_schema"])
    grammar = given.get("grammar")
    if grammar is not None and isinstance(grammar, load_engine().LlamaGrammar):
        grammar = grammar._grammar
    if grammar is None:
        return None
    from labkit.grammar.check import check_grammar

    return check_grammar(grammar)
