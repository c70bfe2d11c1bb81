"""Arguments are checked before llama.cpp gets them, and each error is one line that says what is needed."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.checks import check_flag, check_int, check_number, check_text, one_line, shown
from labkit.engine.options import check_options, check_overrides_fit
from labkit.engine.sampling_settings import SamplingSettings, check_max_tokens, check_sampling
from labkit.errors import ArgumentError, ArgumentTypeError, LabkitError, ModelNotFoundError
from labkit.gguf_file.formats import tensor_type
from labkit.kv_cache import CACHE_TYPES
from labkit.load_check.facts import LoadFacts

HUGE = 10**5000  # Python refuses to print it


class Hostile:
    """Raises in every method."""

    def __index__(self) -> int:
        raise RuntimeError("no\nindex")

    def __float__(self) -> float:
        raise RuntimeError("no\nfloat")

    def __repr__(self) -> str:
        raise RuntimeError("no\nrepr")


def _kind(value: object) -> str:
    return type(value).__name__


UNFIT_INTEGERS = [True, 1.0, "3", None, b"3", [3], np.array([3]), np.array([1, 2]), 3j, Hostile(), np.bool_(1)]


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (np.int64(4), 4), (np.array(5), 5), (0, 0), (10, 10)])
def test_check_int_accepts_whole_numbers(value: Any, expected: int) -> None:
    """Python's and NumPy's integers are accepted, including the bounds."""
    assert check_int("n", value, 0, 10) == expected


@pytest.mark.parametrize("value", UNFIT_INTEGERS, ids=_kind)
def test_check_int_refuses_other_types(value: Any) -> None:
    """A bool, float, text, array or failing object is a wrong type, in one line."""
    with pytest.raises(ArgumentTypeError, match="n must be an integer") as caught:
        check_int("n", value, 0, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-1, 11, 2**80, HUGE, -HUGE], ids=_kind)
def test_check_int_refuses_what_is_out_of_range(value: int) -> None:
    """Even a number of five thousand digits gives a readable error."""
    with pytest.raises(ArgumentError, match="it must be 0 to 10") as caught:
        check_int("n", value, 0, 10)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [0, 0.5, 1, np.float32(0.25), np.float64(1), Fraction(1, 3), Decimal("0.1")])
def test_check_number_accepts_numbers(value: Any) -> None:
    """Any value that is a finite float within the bounds is accepted."""
    assert check_number("x", value, 0.0, 1.0) == pytest.approx(float(value))


@pytest.mark.parametrize(
    "value", [True, "0.5", b"1", None, 1j, [0.5], np.array([0.5]), Hostile(), HUGE, object()], ids=_kind
)
def test_check_number_refuses_other_types(value: Any) -> None:
    """Anything but a number, or a number too large for a float, is a one-line error."""
    with pytest.raises(ArgumentTypeError, match="x must be a number") as caught:
        check_number("x", value, 0.0, 1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 1.1, np.float32("nan")])
def test_check_number_refuses_what_is_not_finite_or_out_of_range(value: Any) -> None:
    """NaN, infinity and numbers out of range are refused."""
    with pytest.raises(ArgumentError, match="it must be 0 to 1"):
        check_number("x", value, 0.0, 1.0)


def test_check_flag_accepts_only_true_and_false() -> None:
    """1 and "yes" are refused; NumPy's bool is accepted."""
    assert check_flag("f", True) is True
    assert check_flag("f", np.bool_(0)) is False
    for value in (1, 0, "yes", None, []):
        with pytest.raises(ArgumentTypeError, match="True or False"):
            check_flag("f", value)


def test_check_text_refuses_lone_surrogates() -> None:
    """Text becomes UTF-8; a lone surrogate is an error with its position."""
    assert check_text("t", "naïve 🦙") == "naïve 🦙".encode()
    with pytest.raises(ArgumentError, match="position 2"):
        check_text("t", "ab\ud800")
    with pytest.raises(ArgumentTypeError, match="t must be text"):
        check_text("t", b"bytes")


@pytest.mark.parametrize(("value", "expected"), [(None, None), (0, 0), (7, 7), (2**31 - 1, 2**31 - 1)])
def test_check_max_tokens_takes_none_and_zero(value: Any, expected: int | None) -> None:
    """None means until the context is full; 0 is an empty text, not llama-cpp-python's "unlimited"."""
    assert check_max_tokens(value) == expected


@pytest.mark.parametrize("value", [-1, 2**31, 1.5, "10", True, math.nan])
def test_check_max_tokens_refuses_the_rest(value: Any) -> None:
    """Negative and fractional numbers are errors that name None."""
    with pytest.raises(LabkitError, match="None means until the context is full"):
        check_max_tokens(value)


def test_check_sampling_has_llama_cpp_s_defaults() -> None:
    """Without arguments the settings are the documented defaults; None is "not given"."""
    assert check_sampling(0.7, {}) == SamplingSettings() == check_sampling(0.7, {"seed": None, "stop": None, "top_k": None})


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"stop": "END"}, "stop", ("END",)),
        ({"stop": ["a", "b"]}, "stop", ("a", "b")),
        ({"stop": ()}, "stop", ()),
        ({"seed": 0}, "seed", 0),
        ({"seed": 2**32 - 2}, "seed", 2**32 - 2),
        ({"top_k": 0}, "top_k", 0),
        ({"top_p": 0}, "top_p", 0.0),
        ({"min_p": 1}, "min_p", 1.0),
        ({"repeat_penalty": 1.3}, "repeat_penalty", 1.3),
        ({"dry_sequence_breakers": "\n"}, "dry_sequence_breakers", ("\n",)),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers", ()),
        ({"logprobs": 0}, "logprobs", 0),
    ],
)
def test_check_sampling_keeps_what_is_given(options: dict[str, Any], field: str, expected: Any) -> None:
    """Every option reaches its field."""
    assert getattr(check_sampling(0.7, options), field) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"stop": ""}, {"stop": ["a", ""]}, {"stop": 7}, {"stop": b"a"}, {"stop": {"a": 1}}, {"stop": ["a", 7]},
        {"stop": {"a"}},
        {"stop": "\ud800"}, {"seed": -1}, {"seed": 2**32 - 1}, {"seed": 1.5}, {"top_k": -1}, {"top_p": 1.01},
        {"min_p": -0.1},
        {"repeat_penalty": 0}, {"repeat_penalty": math.nan}, {"grammar": 7}, {"grammar": "root ::= ("},
        {"json_schema": 7}, {"frequency_penalty": math.inf}, {"repeat_last_n": -1}, {"dry_base": 0.9}, {"typical_p": 2},
        {"dry_sequence_breakers": [""]}, {"dry_sequence_breakers": "x" * 41}, {"logprobs": 21}, {"xtc_threshold": "low"},
        {"grammar": 'root ::= "a"', "json_schema": {}}, {"temprature": 1}, {"max_token": 3}, {"a\nb": 1}, {"x" * 500: 1},
    ],
)  # fmt: skip
def test_check_sampling_refuses_what_cannot_work(options: dict[str, Any]) -> None:
    """Unknown names, wrong types and values out of range: one line each."""
    with pytest.raises(LabkitError) as caught:
        check_sampling(0.7, options)
    assert "\n" not in str(caught.value)


def test_unknown_option_names_the_known_ones() -> None:
    """The error for a misspelled option lists the existing ones."""
    with pytest.raises(ArgumentTypeError, match=r"'temprature'.*grammar, json_schema.*top_p"):
        check_sampling(0.7, {"temprature": 1})


@given(st.text(max_size=600))
def test_one_line_gives_one_printable_line(text: str) -> None:
    """Untrusted text is shown as one line without control characters."""
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= 300 + 10  # the last character may be an escape


def test_shown_survives_any_object() -> None:
    """A value whose repr fails is shown by its type."""
    assert shown(Hostile()) == "a value (Hostile)"
    assert shown("a\nb") == r"'a\nb' (str)"
    assert len(shown("x" * 10_000)) < 60


# -- load_model's keyword arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_cache_types_go_by_name_and_number(name: str) -> None:
    """type_k and type_v accept ggml's names, in any case, and its numbers."""
    for value in (name, name.upper(), tensor_type(name).id):
        assert check_options({"type_k": value, "type_v": value}) == {"type_k": name, "type_v": name}


def test_none_counts_as_not_given() -> None:
    """An option that is None is chosen by labkit, as if omitted."""
    assert check_options({"n_batch": None, "flash_attn": None, "seed": 3}) == {"seed": 3}


@pytest.mark.parametrize(
    "options",
    [
        {"type_k": "q9"}, {"type_k": 12}, {"type_v": True}, {"type_v": 1.0}, {"n_batch": 0}, {"n_batch": 2**20},
        {"n_ubatch": "8"},
        {"n_threads_batch": 0}, {"n_threads_batch": 513}, {"split_mode": 9}, {"main_gpu": -1}, {"seed": 2**33},
        {"pooling_type": 9},
        {"rope_freq_base": math.nan}, {"rope_freq_scale": -1}, {"yarn_ext_factor": "x"}, {"lora_scale": math.inf},
        {"embedding": 1}, {"use_mmap": "no"}, {"verbose": None, "logits_all": 0}, {"tensor_split": []},
        {"tensor_split": "ab"},
        {"tensor_split": [0.5] * 17}, {"tensor_split": [-1.0]}, {"tensor_split": {"a": 1}}, {"tensor_split": 0.5},
        {"tensor_split": [math.nan]}, {"chat_format": "no\nsuch"}, {"chat_format": 7}, {"chat_handler": 3},
        {"draft_model": "x"},
        {"tokenizer": 3}, {"numa": 9}, {"numa": "yes"}, {"n_ctx_train": 3}, {"model_path": "x"}, {"kv_overrides": 3},
        {"last_n_tokens_size": -1}, {"attention_type": 5}, {"kwargs": {}}, {"self": 1},
    ],
)  # fmt: skip
def test_check_options_refuses_what_cannot_work(options: dict[str, Any]) -> None:
    """Each option of Llama is checked; the error is one line that names it."""
    with pytest.raises(LabkitError) as caught:
        check_options(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"llama.block_count": 0}, {"llama.block_count": 2**31}, {"llama.attention.head_count": 0},
        {"llama.embedding_length": 1},
        {"llama.expert_count": 8}, {"llama.vocab_size": 5}, {"llama.rope.dimension_count": 7},
        {"general.architecture": "mamba"},
        {"general.alignment": 3}, {"tokenizer.ggml.model": "bert"}, {"tokenizer.chat_template": "x"}, {"split.count": 2},
        {"nope": 1}, {"": 1}, {"k" * 200: 1}, {7: 1}, {"general.name": "x" * 200}, {"general.name": "a\0b"},
        {"general.name": [1]}, {"general.name": None}, {"general.name": "\ud800"}, {"llama.context_length": 2**70},
        {"llama.rope.freq_base": math.nan}, {"a\nb": 1},
    ],
)  # fmt: skip
def test_overrides_that_would_end_the_process_are_refused(overrides: dict[Any, Any]) -> None:
    """Keys that describe the weights, and values that a file cannot hold, cannot be overridden."""
    with pytest.raises(LabkitError) as caught:
        check_options({"kv_overrides": overrides})
    assert "\n" not in str(caught.value)


FACTS = LoadFacts("llama", {"block_count": 2, "expert_count": 4}, (), 0)


@pytest.mark.parametrize(
    "overrides",
    [
        {"llama.expert_used_count": 5}, {"llama.expert_used_count": 0}, {"qwen2.context_length": 512},
        {"llama.attention.layer_norm_rms_epsilon": 0.0}, {"llama.attention.layer_norm_rms_epsilon": -1.0},
        {"llama.rope.freq_base": 0.0}, {"llama.context_length": 0}, {"llama.context_length": "long"},
    ],
)  # fmt: skip
def test_overrides_that_do_not_fit_the_model_are_refused(overrides: dict[str, Any]) -> None:
    """Keys of another architecture, and values that do not match the weights, are refused."""
    with pytest.raises(LabkitError, match="kv_overrides"):
        check_overrides_fit(check_options({"kv_overrides": overrides})["kv_overrides"], FACTS)


@pytest.mark.parametrize(
    "overrides",
    [
        {}, {"llama.expert_used_count": 2}, {"llama.context_length": 8192}, {"llama.rope.scaling.type": "linear"},
        {"llama.rope.freq_base": 1e6}, {"tokenizer.ggml.add_bos_token": False}, {"general.name": "mine"},
    ],
)  # fmt: skip
def test_harmless_overrides_pass(overrides: dict[str, Any]) -> None:
    """Common overrides are accepted."""
    assert check_options({"kv_overrides": overrides}) == {"kv_overrides": overrides}
    check_overrides_fit(overrides, FACTS)


def test_missing_adapter_is_named_by_its_path() -> None:
    """A missing LoRA file is an error before anything is loaded."""
    with pytest.raises(ModelNotFoundError, match=r"lora_path.*nowhere\.gguf"):
        check_options({"lora_path": "nowhere.gguf"})
