"""A second oracle for JSON schemas: the grammars accept nothing that llguidance refuses, and what it writes."""

from __future__ import annotations

import ctypes
import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import llguidance
import numpy as np
import pytest

import labkit
from labkit.engine.native import C
from labkit.errors import ArgumentError
from labkit.grammar.json_schema import grammar_of_schema
from tests.gbnf import Grammar
from tests.test_schema_oracle import schema_of
from tests.tiny_models import write_tiny_model

END = 256


class _Bytes:
    """A vocabulary of the 256 bytes, so that a text has one way to be written."""

    eos_token_id, bos_token_id, special_token_ids = END, None, (END,)
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


_TOKENIZER = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))


def _matcher(schema: dict[str, Any]) -> Any:
    """Return llguidance's matcher of a schema; None where it does not support it."""
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
    found = llguidance.LLMatcher(_TOKENIZER, grammar, log_level=0)
    return None if found.is_error() else found


def _plain(value: Any) -> Any:
    """Return a value without spellings that llguidance does not know: -0, 1.0, 1e2."""
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return int(value)
    if isinstance(value, list):
        return list(map(_plain, value))
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value


def _has_fraction(value: Any) -> bool:
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return isinstance(value, float) or any(map(_has_fraction, parts))


def _write(matcher: Any, source: random.Random, budget: int = 90) -> str | None:
    """Return a random text that llguidance allows; None if it does not come to an end."""
    text = bytearray()
    while len(text) < 4 * budget:
        allowed = np.flatnonzero(np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little"))
        choices = [int(token) for token in allowed if token < END]
        if END in allowed and (not choices or len(text) > budget or source.random() < 0.3):
            return text.decode()
        common = [token for token in choices if chr(token) in '"{}[],:-' or (token < 128 and chr(token).isalnum())]
        closing = [token for token in common if chr(token) in '"}],']
        if closing and (len(text) > budget or source.random() < 0.4):
            choices = closing
        elif common and (len(text) > budget or source.random() < 0.9):
            choices = common
        token = source.choice(choices)
        assert matcher.consume_tokens([token])
        text.append(token)
    return None


def wrong_texts(seed: int) -> list[str] | None:
    """Return texts of a random schema's grammar that llguidance refuses; None where one of the two refuses the schema."""
    schema = schema_of(seed)
    try:
        grammar = Grammar(grammar_of_schema(schema))
    except ArgumentError:
        return None
    if _matcher(schema) is None:
        return None
    source, wrong = random.Random(seed), []
    for _ in range(8):
        value = _plain(json.loads(grammar.text(source, source.choice([5, 30, 200]))))
        text, matcher = json.dumps(value, ensure_ascii=False), _matcher(schema)
        # llguidance's ranges of fractions are too narrow (version 1.9 refuses -0.7 for exclusiveMinimum -0.75)
        if not (matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()) and not _has_fraction(value):
            wrong.append(text)
    return wrong


def test_no_text_is_outside_what_llguidance_accepts() -> None:
    """Of 150 random schemas, those that both support: each text of labkit's grammar is one of llguidance's."""
    found = {seed: wrong_texts(seed) for seed in range(150)}
    assert {seed: wrong for seed, wrong in found.items() if wrong} == {}
    assert sum(wrong is not None for wrong in found.values()) > 40


# -- the other direction: schemas of which labkit's grammar should have every text ------------------------------------


def closed_schema(source: random.Random, depth: int = 3) -> dict[str, Any]:
    """Return a schema that says all: types, closed objects, lengths, bounds."""
    kinds = ["string", "integer", "boolean", "null", "enum", "number"] + ["object", "array", "anyOf"] * (
        2 if depth > 0 else 0
    )
    kind = source.choice(kinds)

    def inner() -> dict[str, Any]:
        return closed_schema(source, depth - 1)

    if kind == "enum":
        return {"enum": source.sample([0, 7, -2, "a", 'q"', "é\n", None, True], source.randint(1, 4))}
    if kind == "anyOf":
        return {"anyOf": [inner() for _ in range(source.randint(1, 3))]}
    schema: dict[str, Any] = {"type": kind}
    low = source.randint(0, 3)
    if kind == "string" and source.random() < 0.7:
        schema |= {"minLength": low, "maxLength": low + source.randint(0, 8)}
    if kind == "integer" and source.random() < 0.7:
        schema |= {"minimum": source.randint(-200, 5), "maximum": source.randint(5, 3000)}
    if kind == "array":
        schema |= {"items": inner(), "minItems": low, "maxItems": low + source.randint(0, 2)}
    if kind == "object":
        names = source.sample(["a", "bc", "d e", "é", "n1"], source.randint(0, 4))
        schema |= {"properties": {name: inner() for name in names}, "additionalProperties": False}
        schema["required"] = [name for name in names if source.random() < 0.5]
    return schema


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[bytes, int]]]:
    """Yield llama.cpp's vocabulary of a tiny model, and its tokens of one byte."""
    with labkit.load_model(write_tiny_model(tmp_path_factory.mktemp("bytes") / "tiny.gguf"), n_threads=1) as model:
        tokenizer = model.native.tokenizer
        yield tokenizer.vocab, {tokenizer.piece(token): token for token in range(tokenizer.n_vocab)}


def _engine_accepts(vocab: Any, tokens: dict[bytes, int], grammar: str, text: str) -> bool:
    """Return whether llama.cpp's grammar lets a text through, byte by byte, and may end after it."""
    sampler = C.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
    assert sampler, grammar
    try:
        for token in [*(tokens[bytes([value])] for value in text.encode()), C.llama_vocab_eos(vocab)]:
            one = (C.llama_token_data * 1)(C.llama_token_data(token, 0.0, 0.0))
            C.llama_sampler_apply(sampler, ctypes.byref(C.llama_token_data_array(one, 1, -1, False)))
            if not np.isfinite(one[0].logit):
                return False
            C.llama_sampler_accept(sampler, token)
        return True
    finally:
        C.llama_sampler_free(sampler)


def _common(number: str) -> float:
    """Return a number, rounded to the 15 digits that a grammar has at most, without an exponent."""
    value = float(number)
    return round(value, 3) if "." in number and abs(value) < 1e9 else int(value) if abs(value) < 1e15 else 0


def missed_texts(vocabulary: tuple[Any, dict[bytes, int]], seed: int) -> list[str]:
    """Return texts that llguidance writes for a closed schema, and the schema's grammar refuses."""
    source = random.Random(seed)
    schema = closed_schema(source)
    grammar, missed = grammar_of_schema(schema), []
    validator = jsonschema.Draft202012Validator(schema)
    for _ in range(4):
        text = _write(_matcher(schema), source)
        if text is None:
            continue
        value = json.loads(text, parse_int=_common, parse_float=_common)
        assert validator.is_valid(value), (schema, text)
        for same in (json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, separators=(",", ":"))):
            if not _engine_accepts(*vocabulary, grammar, same):
                missed.append(same)
    return missed


def test_what_llguidance_writes_for_closed_schemas_is_accepted(vocabulary: tuple[Any, dict[bytes, int]]) -> None:
    """Of 100 schemas that say all, every text is in the engine's grammar; and a text of another kind is not."""
    assert {seed: missed for seed in range(100) if (missed := missed_texts(vocabulary, seed))} == {}
    assert not _engine_accepts(*vocabulary, grammar_of_schema({"type": "integer"}), "1.5")
    assert not _engine_accepts(*vocabulary, grammar_of_schema({"type": "array"}), "[1")
