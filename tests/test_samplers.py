"""generate_text's samplers are llama.cpp's, in its order; logprobs are the model's own probabilities."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

import labkit
from labkit import sampling
from labkit.engine.sampler import Sampler
from labkit.engine.sampling_settings import SamplingSettings, check_sampling
from tests.tiny_models import write_tiny_model

PROMPT = "The red fox ran to the river. The red fox ran to the hill. The red fox"


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    with labkit.load_model(n_ctx=512) as loaded:
        yield loaded


def _names(model: labkit.Model, settings: SamplingSettings) -> list[str]:
    with Sampler(model.native.tokenizer.vocab, settings) as sampler:
        count = llama_cpp.llama_sampler_chain_n(sampler.chain)
        chain = [llama_cpp.llama_sampler_chain_get(sampler.chain, index) for index in range(count)]
        return [llama_cpp.llama_sampler_name(one).decode().strip("+-?") for one in chain]


ALL: dict[str, Any] = {
    "repeat_penalty": 1.1, "dry_multiplier": 0.8, "top_n_sigma": 2.0, "typical_p": 0.9, "xtc_probability": 0.5,
}  # fmt: skip
ORDER = ["penalties", "dry", "top-n-sigma", "top-k", "typical", "top-p", "min-p", "xtc", "temp", "dist"]


def test_the_chain_has_llama_cpp_s_order(model: labkit.Model) -> None:
    """All samplers are in the order of llama.cpp's common/common.h; those that are off are left out."""
    assert _names(model, check_sampling(0.7, ALL)) == ORDER
    assert _names(model, check_sampling(0.7, {})) == ["top-k", "top-p", "min-p", "temp", "dist"]
    assert _names(model, check_sampling(0, ALL)) == [*ORDER[:-2], "greedy"]
    for off in ({"repeat_last_n": 0, "frequency_penalty": 1}, {"dry_multiplier": 1, "dry_penalty_last_n": 0}, {"top_k": 5}):
        assert _names(model, check_sampling(0, off)) == ["greedy"]


def test_only_what_can_change_the_choice_costs_the_fast_path(model: labkit.Model) -> None:
    """Greedy decoding takes the highest logit directly, unless a sampler may change or drop it."""
    vocab = model.native.tokenizer.vocab
    for options in (
        {},
        {"top_k": 3, "top_p": 0.5, "min_p": 0.5, "top_n_sigma": 1.0, "logprobs": 3},
        {"xtc_probability": 0.0},
    ):
        with Sampler(vocab, check_sampling(0, options)) as sampler:
            assert sampler._takes_highest, options
    for name, value in {**ALL, "frequency_penalty": 0.1, "presence_penalty": 0.1, "grammar": 'root ::= "a"'}.items():
        with Sampler(vocab, check_sampling(0, {name: value})) as sampler:
            assert sampler._takes_highest == (name == "top_n_sigma"), name


def _expected(model: labkit.Model, options: dict[str, Any], text: str) -> int:
    """Return the token that the formulas of labkit.sampling choose at temperature 0."""
    given = SamplingSettings(**options)
    tokenizer = model.native.tokenizer
    ends = [end.encode() for end in given.dry_sequence_breakers] if given.has_dry else []
    breakers = {
        token for token in range(tokenizer.n_vocab if ends else 0) if any(end in tokenizer.piece(token) for end in ends)
    }
    seen = tokenizer.prompt_tokens(text)
    logits = labkit.next_token_logits(model, text)
    logits = sampling.apply_penalties(
        logits,
        seen[-given.repeat_last_n :],
        repeat_penalty=given.repeat_penalty,
        frequency_penalty=given.frequency_penalty,
        presence_penalty=given.presence_penalty,
    )
    logits = sampling.apply_dry(
        logits,
        seen[-given.dry_penalty_last_n :],
        multiplier=given.dry_multiplier,
        base=given.dry_base,
        allowed_length=given.dry_allowed_length,
        breakers=breakers,
    )
    logits = sampling.keep_typical(sampling.keep_top_k(logits, given.top_k), given.typical_p)
    logits = sampling.keep_min_p(sampling.keep_top_p(logits, given.top_p), given.min_p)
    if given.xtc_probability == 1.0:
        logits = sampling.drop_top_choices(logits, given.xtc_threshold)
    return int(logits.argmax())


@pytest.mark.parametrize(
    "options",
    [
        {"frequency_penalty": 3.0, "presence_penalty": 1.5, "repeat_last_n": 9},
        {"dry_multiplier": 2.0, "dry_sequence_breakers": ("\n",)},
        {"dry_multiplier": 2.0, "dry_base": 3.0, "dry_allowed_length": 1, "dry_penalty_last_n": 20},
        {"typical_p": 0.3},
        {"xtc_probability": 1.0, "xtc_threshold": 0.05, "repeat_penalty": 1.2, "top_p": 0.8},
    ],
    ids=lambda options: "-".join(options),
)
def test_texts_follow_the_formulas(model: labkit.Model, options: dict[str, Any]) -> None:
    """Each sampler, with the prompt's tokens counted, gives the tokens that its published formula gives.

    Each token comes from the logits of a prompt, because a text's own logits differ by rounding, and so what exceeds a
    threshold: by how much depends on the processor.
    """
    tokenizer, text, chosen = model.native.tokenizer, PROMPT, []
    for _ in range(4):
        chosen.append(_generated(model, text, 1, **options)[0])
        assert chosen[-1] == _expected(model, options, text)
        text += tokenizer.piece(chosen[-1]).decode()
        assert tokenizer.prompt_tokens(text) == [*tokenizer.prompt_tokens(PROMPT), *chosen]
    assert chosen != _generated(model, PROMPT, 4)  # the option has an effect
    if not {"typical_p", "xtc_probability"} & set(options):
        assert chosen == _generated(model, PROMPT, 4, **options)  # generated tokens count, too


def _generated(model: labkit.Model, text: str, n_tokens: int, **options: Any) -> list[int]:
    labkit.generate_text(model, text, n_tokens, temperature=0, **options)
    assert model.last_generation is not None
    return list(model.last_generation.token_ids)


def test_breakers_end_a_repetition(model: labkit.Model) -> None:
    """DRY stops counting at a sequence breaker: the full stop before the repeated words protects them."""
    free = labkit.generate_text(model, PROMPT, 2, temperature=0)
    assert labkit.generate_text(model, PROMPT, 2, temperature=0, dry_multiplier=5.0) != free
    assert labkit.generate_text(model, PROMPT, 2, temperature=0, dry_multiplier=5.0, dry_sequence_breakers=" fox") == free


def test_a_grammar_wins_over_a_penalty_without_limit(tmp_path: Path) -> None:
    """Where only one token is allowed, it is chosen, even if a long repetition lowers its logit to -inf."""
    with labkit.load_model(write_tiny_model(tmp_path / "tiny.gguf"), n_ctx=256, n_threads=1) as tiny:
        options = {"dry_multiplier": 100.0, "dry_base": 100.0, "grammar": 'root ::= "q"{60}'}
        assert labkit.generate_text(tiny, "b", 70, temperature=0, **options) == "q" * 60


def test_logprobs_are_the_model_s_own(model: labkit.Model) -> None:
    """They are the log-softmax of the raw logits: samplers change what is chosen, not its reported probability."""
    expected = np.log(sampling.softmax(labkit.next_token_logits(model, PROMPT)).astype(np.float64))
    for options in ({"temperature": 0}, {"temperature": 1.5, "seed": 3, "top_k": 2, "repeat_penalty": 3.0}):
        labkit.generate_text(model, PROMPT, 5, logprobs=4, **options)
        report = model.last_generation
        assert report is not None
        assert [one.token for one in report.logprobs] == list(report.token_ids)
        first = report.logprobs[0]
        assert first.logprob == pytest.approx(expected[first.token], abs=1e-3)
        assert [one.token for one in first.top] == np.argsort(-expected)[:4].tolist()
        for one in report.logprobs:
            assert one.text == labkit.token_text(model, one.token) == one.piece.decode()
            assert len(one.top) == 4
            assert sorted(one.top, key=lambda each: -each.logprob) == list(one.top)
            assert sum(math.exp(each.logprob) for each in one.top) <= 1.0
    labkit.generate_text(model, PROMPT, 2)
    assert model.last_generation is not None
    assert model.last_generation.logprobs == ()


def test_logprobs_are_the_same_streamed_in_a_batch_and_with_none_besides(model: labkit.Model) -> None:
    """A stream and a batch report the same probabilities; logprobs=0 has those of the chosen tokens only."""
    labkit.generate_text(model, PROMPT, 4, temperature=0, logprobs=2)
    assert model.last_generation is not None
    want = model.last_generation.logprobs
    list(labkit.stream_text(model, PROMPT, 4, temperature=0, logprobs=2))
    assert model.last_generation.logprobs == want
    batch = labkit.generate_batch_results(model, [PROMPT, "1, 2,"], 4, temperature=0, logprobs=0)
    found = batch.answers[0].logprobs
    assert [one.token for one in found] == [one.token for one in want]
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in want], abs=0.05)
    assert not any(one.top for one in found)


def test_the_token_that_ends_a_text_has_no_logprob(model: labkit.Model) -> None:
    """As in OpenAI's answers, there is one entry per token of the text."""
    labkit.generate_chat(model, [{"role": "user", "content": "Say hi."}], 60, temperature=0, logprobs=1)
    assert model.last_generation is not None
    assert model.last_generation.finish_reason == "end"
    assert len(model.last_generation.logprobs) == model.last_generation.n_generated
