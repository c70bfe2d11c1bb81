"""The caller's sampling arguments, checked first: some values would crash the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from labkit.checks import check_int, check_items, check_number, check_text, one_line
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


class SamplingSettings(NamedTuple):
    """How to choose the next token; every field is checked. Names and defaults are those of llama.cpp's server."""

    temperature: float = 0.7
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    top_n_sigma: float = -1.0
    top_k: int = 40
    typical_p: float = 1.0
    top_p: float = 0.95
    min_p: float = 0.05
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the temperature is 0: the most likely token that the other samplers leave is chosen."""
        return self.temperature < COLDEST

    @property
    def penalizes(self) -> bool:
        """Whether tokens of the text so far get other logits."""
        changes = self.repeat_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0
        return changes and self.repeat_last_n > 0

    @property
    def has_dry(self) -> bool:
        """Whether tokens that would continue a repetition get lower logits."""
        return self.dry_multiplier > 0.0 and self.dry_penalty_last_n > 0

    @property
    def may_drop_highest(self) -> bool:
        """Whether the most likely token may be dropped; top-k, top-p and min-p always keep it."""
        return self.typical_p < 1.0 or (self.xtc_probability > 0.0 and self.xtc_threshold <= 0.5)

    def for_prompt(self, index: int) -> SamplingSettings:
        """Return the settings of a batch's prompt: a given seed plus the prompt's index."""
        return self if self.seed is None else self._replace(seed=(self.seed + index) % (MAX_SEED + 1))


_MAX_LAST_N = 2**20  # tokens; llama.cpp reserves memory for them
MAX_LOGPROBS = 20  # as OpenAI
_MAX_BREAKER_BYTES = 40  # llama.cpp cuts longer ones
_NUMBERS = {
    "repeat_penalty": (0.01, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (1.0, 100.0),
    "top_n_sigma": (-1e6, 1e6),
    "typical_p": (0.0, 1.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
}
_INTS = {
    "repeat_last_n": (0, _MAX_LAST_N, "; 0 turns the penalties off"),
    "dry_allowed_length": (0, _MAX_LAST_N, ""),
    "dry_penalty_last_n": (0, _MAX_LAST_N, "; 0 turns DRY off"),
    "top_k": (0, 2**31 - 1, "; 0 means all tokens"),
    "seed": (0, MAX_SEED, ""),
    "logprobs": (0, MAX_LOGPROBS, "; None means none"),
}
_TEXTS = ("stop", "dry_sequence_breakers")


def check_sampling(temperature: Any, options: Mapping[str, Any]) -> SamplingSettings:
    """Check the ``**kwargs`` of ``generate_text``."""
    known = {*_NUMBERS, *_INTS, *_TEXTS, "json_schema", "grammar"}
    for name in options:
        if name not in known:
            raise ArgumentTypeError(f"unknown argument {one_line(repr(name), 60)}: known are {', '.join(sorted(known))}")
    given = {name: value for name, value in options.items() if value is not None}
    return SamplingSettings(
        temperature=check_number("temperature", temperature, 0.0, 1e6),
        grammar=_check_grammar(given),
        **{name: _check(name, given[name]) for name in given if name not in ("json_schema", "grammar")},
    )


def _check(name: str, value: Any) -> Any:
    if name in _INTS:
        low, high, hint = _INTS[name]
        return check_int(name, value, low, high, hint=hint)
    return check_number(name, value, *_NUMBERS[name]) if name in _NUMBERS else _check_texts(name, value)


def _check_texts(name: str, value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else check_items(name, value, "texts, or one text")
    for text in texts:
        data = check_text(name, text)
        if not text:
            why = ", which would end every text before it begins" if name == "stop" else ""
            raise ArgumentError(f"{name} contains an empty text{why}: remove it")
        if name != "stop" and (len(data) > _MAX_BREAKER_BYTES or "\0" in text):
            raise ArgumentError(
                f"{name} has a text with a NUL or of {len(data):,} bytes: at most {_MAX_BREAKER_BYTES} are possible"
            )
    return texts


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
