"""sampling.py equals llama.cpp's samplers."""

import ctypes
import math

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import labkit
from labkit import sampling

LOGITS = arrays(np.float32, st.integers(1, 300), elements=st.floats(-20, 20, width=32), unique=True)


def _native(logits: np.ndarray, *samplers: object) -> tuple[dict[int, float], int]:
    """Return the logits that a chain of llama.cpp's samplers keeps, and its selected token."""
    data = (llama_cpp.llama_token_data * len(logits))(
        *(llama_cpp.llama_token_data(i, float(x), 0.0) for i, x in enumerate(logits))
    )
    candidates = llama_cpp.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for sampler in samplers:
        llama_cpp.llama_sampler_chain_add(chain, sampler)
    llama_cpp.llama_sampler_apply(chain, ctypes.byref(candidates))
    llama_cpp.llama_sampler_free(chain)
    kept = [candidates.data[i] for i in range(candidates.size)]
    chosen = kept[candidates.selected].id if candidates.selected >= 0 else -1
    return {one.id: one.logit for one in kept if math.isfinite(one.logit)}, chosen


def _ours(logits: np.ndarray) -> dict[int, float]:
    return {int(i): float(logits[i]) for i in np.flatnonzero(np.isfinite(logits))}


@settings(deadline=None)
@given(LOGITS, st.integers(1, 400))
def test_top_k_keeps_what_the_engine_keeps(logits: np.ndarray, k: int) -> None:
    """keep_top_k equals llama_sampler_init_top_k."""
    assert _ours(sampling.keep_top_k(logits, k)) == _native(logits, llama_cpp.llama_sampler_init_top_k(k))[0]


@settings(deadline=None)
@given(LOGITS, st.floats(0.01, 0.999))
def test_top_p_keeps_what_the_engine_keeps(logits: np.ndarray, p: float) -> None:
    """keep_top_p equals llama_sampler_init_top_p, except for sums that round to the threshold."""
    ours, theirs = _ours(sampling.keep_top_p(logits, p)), _native(logits, llama_cpp.llama_sampler_init_top_p(p, 1))[0]
    ranked = np.sort(sampling.softmax(logits).astype(np.float64))[::-1]
    nearest = np.abs(np.cumsum(ranked) - p).min()
    assert ours == theirs or nearest < 1e-5


@settings(deadline=None)
@given(LOGITS, st.floats(0.001, 1.0))
def test_min_p_keeps_what_the_engine_keeps(logits: np.ndarray, p: float) -> None:
    """keep_min_p equals llama_sampler_init_min_p, except for a logit that rounds to the threshold."""
    ours, theirs = _ours(sampling.keep_min_p(logits, p)), _native(logits, llama_cpp.llama_sampler_init_min_p(p, 1))[0]
    nearest = np.abs(logits.astype(np.float64) - (float(logits.max()) + math.log(p))).min()
    assert ours == theirs or nearest < 1e-5


@settings(deadline=None)
@given(LOGITS, st.floats(0.01, 3.0))
def test_temperature_divides_as_the_engine_does(logits: np.ndarray, temperature: float) -> None:
    """apply_temperature equals llama_sampler_init_temp."""
    theirs = _native(logits, llama_cpp.llama_sampler_init_temp(temperature))[0]
    assert _ours(sampling.apply_temperature(logits, temperature)) == pytest.approx(theirs, rel=1e-5)


@settings(deadline=None)
@given(LOGITS, st.floats(0.01, 0.999))
def test_typical_keeps_what_the_engine_keeps(logits: np.ndarray, p: float) -> None:
    """keep_typical equals llama_sampler_init_typical, except for sums and distances within rounding."""
    ours = _ours(sampling.keep_typical(logits, p))
    theirs = _native(logits, llama_cpp.llama_sampler_init_typical(p, 1))[0]
    if ours.keys() != theirs.keys():
        shares = sampling.softmax(logits).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(shares)
            distance = np.abs(surprise - np.nansum(shares * surprise))
        order = np.argsort(distance, kind="stable")
        sums = np.cumsum(shares[order])
        ties = np.diff(distance[order])[: max(len(ours), len(theirs))]
        assert np.abs(sums - p).min() < 1e-5 or ties.min() < 1e-4 or shares.min() < 1e-37


@settings(deadline=None)
@given(LOGITS, st.floats(0.001, 0.5), st.integers(0, 1000))
def test_xtc_drops_what_the_engine_drops(logits: np.ndarray, threshold: float, seed: int) -> None:
    """drop_top_choices equals llama_sampler_init_xtc with probability 1, except for a share that rounds to the threshold."""
    ours = _ours(sampling.drop_top_choices(logits, threshold))
    theirs = _native(logits, llama_cpp.llama_sampler_init_xtc(1.0, threshold, 1, seed))[0]
    assert ours == theirs or np.abs(sampling.softmax(logits).astype(np.float64) - threshold).min() < 1e-6


TOKENS = st.lists(st.integers(0, 5), max_size=40)


def _after(sampler: object, tokens: list[int]) -> object:
    for token in tokens:
        llama_cpp.llama_sampler_accept(sampler, token)
    return sampler


@settings(deadline=None)
@given(
    LOGITS.filter(lambda logits: len(logits) > 5), TOKENS, st.sampled_from((1.0, 1.2, 2.0)), st.sampled_from((0.0, 0.5)),
    st.sampled_from((0.0, -0.3, 1.0)), st.integers(1, 50),
)  # fmt: skip
def test_penalties_equal_the_engine_s(
    logits: np.ndarray, tokens: list[int], repeat: float, frequency: float, presence: float, last_n: int
) -> None:
    """apply_penalties to the last tokens equals llama_sampler_init_penalties."""
    ours = sampling.apply_penalties(
        logits, tokens[-last_n:], repeat_penalty=repeat, frequency_penalty=frequency, presence_penalty=presence
    )
    native = llama_cpp.llama_sampler_init_penalties(len(logits), last_n, repeat, frequency, presence)
    assert _ours(ours) == pytest.approx(_native(logits, _after(native, tokens))[0], abs=1e-4)


@settings(deadline=None)
@given(
    LOGITS.filter(lambda logits: len(logits) > 5), TOKENS, st.sampled_from((0.8, 3.0)), st.sampled_from((1.0, 1.75)),
    st.integers(0, 4), st.integers(1, 50),
)  # fmt: skip
def test_dry_equals_the_engine_s(
    logits: np.ndarray, tokens: list[int], multiplier: float, base: float, allowed: int, last_n: int
) -> None:
    """apply_dry to the last tokens equals llama_sampler_init_dry."""
    ours = sampling.apply_dry(logits, tokens[-last_n:], multiplier=multiplier, base=base, allowed_length=allowed)
    native = llama_cpp.llama_sampler_init_dry(None, multiplier, base, allowed, last_n, None, 0)
    theirs = _native(logits, _after(native, tokens))[0]
    if min(len(tokens), last_n) <= allowed:  # too short for llama.cpp, also where 0 repeated tokens are enough
        assert theirs == _ours(logits)
    else:
        assert _ours(ours) == pytest.approx(theirs, rel=1e-4, abs=1e-3)


@settings(deadline=None)
@given(LOGITS, st.integers(0, 2**32 - 2), st.integers(0, 60), st.sampled_from((1.0, 0.9, 0.5)), st.sampled_from((0.0, 0.05)))
def test_draw_equals_the_engine(logits: np.ndarray, seed: int, top_k: int, top_p: float, min_p: float) -> None:
    """choose_token makes the same choice as llama.cpp's whole chain with the same seed."""
    samplers = [llama_cpp.llama_sampler_init_top_k(top_k)] if 0 < top_k < len(logits) else []
    samplers += [llama_cpp.llama_sampler_init_top_p(top_p, 1)] if top_p < 1 else []
    samplers += [llama_cpp.llama_sampler_init_min_p(min_p, 1)] if min_p else []
    chosen = _native(logits, *samplers, llama_cpp.llama_sampler_init_temp(0.8), llama_cpp.llama_sampler_init_dist(seed))[1]
    ours = sampling.choose_token(logits, seed, temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p)
    assert ours == chosen


def test_choose_token_predicts_the_first_token_of_a_text() -> None:
    """For each seed, the first token of generate_text is the one from choose_token."""
    with labkit.load_model(n_ctx=256) as model:
        logits = labkit.next_token_logits(model, "My favourite animal is")
        for seed in range(20):
            labkit.generate_text(model, "My favourite animal is", max_tokens=1, temperature=1.2, seed=seed)
            assert model.last_generation is not None
            assert model.last_generation.token_ids == (sampling.choose_token(logits, seed, temperature=1.2),)


def test_logits_do_not_depend_on_earlier_prompts() -> None:
    """The same prompt gives bit-identical logits after other prompts and after a generation."""
    with labkit.load_model(n_ctx=1024) as model:
        first = labkit.next_token_logits(model, "One two three")
        labkit.generate_text(model, "Something else " * 200, max_tokens=4)
        labkit.next_token_logits(model, "One two")
        assert np.array_equal(first, labkit.next_token_logits(model, "One two three"))
        with pytest.raises(labkit.ContextOverflowError):
            labkit.next_token_logits(model, "word " * 2000)
        assert labkit.token_text(model, int(first.argmax())).strip()


def test_entropy_of_an_even_choice() -> None:
    """An even choice among n tokens has log2(n) bits, a single token has none, and a dropped token does not count."""
    assert sampling.entropy_bits(np.zeros(8)) == pytest.approx(3.0)
    assert sampling.entropy_bits([5.0]) == 0.0
    assert sampling.entropy_bits([1.0, 1.0, -np.inf]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sampling.softmax([]), "one row"),
        (lambda: sampling.softmax([[1.0]]), "one row"),
        (lambda: sampling.softmax(["a"]), "row of numbers"),
        (lambda: sampling.softmax([math.nan]), "NaN"),
        (lambda: sampling.softmax([-math.inf]), "every token"),
        (lambda: sampling.keep_top_k([1.0], -1), "top_k=-1"),
        (lambda: sampling.keep_top_k([1.0], 1.5), "integer"),
        (lambda: sampling.keep_top_p([1.0], 1.5), "top_p"),
        (lambda: sampling.keep_min_p([1.0], "x"), "number"),
        (lambda: sampling.apply_temperature([1.0], -1.0), "temperature"),
        (lambda: sampling.draw_token([1.0], -1), "seed"),
    ],
)
def test_invalid_input_is_a_one_line_error(call: object, words: str) -> None:
    """Each invalid input is an error that names the problem."""
    with pytest.raises(labkit.LabkitError, match=words):
        call()  # type: ignore[operator]
