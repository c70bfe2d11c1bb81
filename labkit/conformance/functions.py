"""Checks of the seven functions; a check raises `WrongError` with a hint."""

from __future__ import annotations

import copy
import math
import numbers
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import labkit

_COUNTING = "1, 2, 3, 4,"
_LONG = "The quick brown fox jumps over the lazy dog. " * 60


class WrongError(Exception):
    """A function fails a check; the message says what to look at."""


class Setup:
    """What the checks need: the module, and the bundled model, which labkit loads once."""

    def __init__(self, module: Any, model: labkit.Model | None = None) -> None:
        self.module, self.path = module, labkit.bundled_model_path()
        self._model, self._owns = model, model is None

    @property
    def model(self) -> labkit.Model:
        """The model, loaded by labkit: a wrong load_model must not fail the other functions."""
        if self._model is None:
            self._model = labkit.load_model(self.path, n_ctx=1024)
        return self._model

    def close(self) -> None:
        """Close the model if it was loaded here."""
        if self._owns and self._model is not None:
            self._model.close()


def _expect(holds: bool, hint: str) -> None:
    if not holds:
        raise WrongError(hint)


def scalar(value: Any) -> Any:
    """Return a NumPy scalar, or an array of one number, as Python's own number; anything else unchanged."""
    return value.item() if getattr(value, "size", None) == 1 and hasattr(value, "item") else value


def _text(value: Any, what: str) -> str:
    _expect(isinstance(value, str), f"{what} should return text (str), not {type(value).__name__}")
    return str(value)


def _value(found: Any, key: str) -> Any:
    try:
        return found[key]
    except (KeyError, TypeError, IndexError):
        raise WrongError(f"the result has no key {key!r}") from None


def _number(found: Any, key: str) -> float:
    value = scalar(_value(found, key))
    right = not isinstance(value, bool) and isinstance(value, (numbers.Real, Decimal)) and math.isfinite(value)
    _expect(right, f"{key!r} should be a number, not {type(value).__name__}")
    return float(value)


def check_load_model(setup: Setup) -> None:
    """Check that it loads with the requested context and threads, and raises an error for a missing file."""
    load = setup.module.load_model
    model = load(str(setup.path), n_ctx=512, n_threads=1)
    _expect(model is not None, "it returned nothing")
    try:
        n_ctx = getattr(model, "n_ctx", None)
        _expect(callable(n_ctx), "it should return a llama_cpp.Llama, or an object that behaves like one")
        _expect(n_ctx is not None and n_ctx() == 512, "n_ctx=512 was requested, but the model has a different context")
        _expect(getattr(model, "n_threads", 1) == 1, "n_threads=1 was requested, but the model uses more")
        tokens = model.tokenize(b"Hello", add_bos=False)
        _expect(bool(tokens), "the model cannot tokenize: was its vocabulary loaded?")
    finally:
        getattr(model, "close", lambda: None)()
    with tempfile.TemporaryDirectory() as folder:
        try:
            load(str(Path(folder) / "missing.gguf"))
        except Exception:  # any error passes
            return
    raise WrongError("a file that does not exist should raise an error")


def check_generate_text(setup: Setup) -> None:
    """Check greedy decoding, max_tokens, stop sequences, temperature and seed."""
    generate, model = setup.module.generate_text, setup.model
    text = _text(generate(model, _COUNTING, max_tokens=6, temperature=0), "generate_text")
    _expect(not text.startswith(_COUNTING), "the prompt is in the result: return only the continuation")
    _expect(bool(text), "it returned an empty text for max_tokens=6")
    expected = labkit.generate_text(model, _COUNTING, 6, 0)
    count = labkit.count_tokens(model, text)
    _expect(count <= 6, f"max_tokens=6 gave {count} tokens")
    _expect(count == 6, f"max_tokens=6 gave only {count} tokens, though nothing stopped the generation")
    _expect(text == expected, "temperature=0 should always choose the likeliest token, but the text is different")
    stopped = _text(generate(model, _COUNTING, max_tokens=12, temperature=0, stop=["7"]), "generate_text")
    _expect("7" not in stopped, "a stop sequence should end the text, and not be part of it")
    _expect(stopped.rstrip().endswith("6,"), "all text before the stop sequence should be returned")

    def sample(temperature: float, seed: int) -> str:
        text = generate(model, "My favourite animal is", max_tokens=8, temperature=temperature, seed=seed)
        return _text(text, "generate_text")

    _expect(sample(0, seed=1) == sample(0, seed=2), "temperature=0 should give the same text whatever the seed")
    hot = [sample(1.5, seed) for seed in (1, 2, 3, 1)]
    _expect(len(set(hot)) > 1, "at temperature 1.5 three seeds gave the same text: are temperature and seed passed on?")
    _expect(hot[0] == hot[3], "the same seed should give the same text again")


def check_generate_chat(setup: Setup) -> None:
    """Check that the template and the system message are used, and the messages are not changed."""
    chat, model = setup.module.generate_chat, setup.model
    question = {"role": "user", "content": "What is the capital of France?"}
    system = {"role": "system", "content": "You are a pirate. Always begin with Arr."}
    messages = [system, question]
    before = copy.deepcopy(messages)
    text = _text(chat(model, messages, max_tokens=8, temperature=0), "generate_chat")
    _expect(messages == before, "the list of messages was changed: make a copy before you change it")
    greeting = _text(chat(model, [{"role": "user", "content": "Say hello."}], max_tokens=4, temperature=0), "generate_chat")
    _expect(labkit.count_tokens(model, greeting) <= 4, "max_tokens=4 gave more tokens")
    alone = _text(chat(model, [question], max_tokens=8, temperature=0), "generate_chat")
    _expect(text != alone, "the system message changes nothing: is it in the prompt?")
    history = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada!"},
        {"role": "user", "content": "What is my name?"},
    ]
    for given in (messages, [{"role": "user", "content": "Say hello."}], history):
        answer = _text(chat(model, given, max_tokens=4, temperature=0), "generate_chat").split()
        expected = labkit.generate_chat(model, given, 4, 0).split()
        _expect(answer[:2] == expected[:2], f"the chat answer differs (messages: {len(given)}): is the chat template used?")


def check_get_model_info(setup: Setup) -> None:
    """Check the values from the header, under the specified keys."""
    found, expected = setup.module.get_model_info(str(setup.path)), labkit.get_model_info(setup.path)
    for key in ("architecture", "quantization"):
        value = _value(found, key)
        _expect(isinstance(value, str), f"{key!r} should be text (str), not {type(value).__name__}")
        _expect(value.lower() == expected[key].lower(), f"{key!r} is not what the header says")
    hints = {
        "parameter_count": "count the elements of all tensors",
        "file_size_bytes": "in bytes",
        "head_count_kv": "there are fewer key/value heads than query heads",
    }
    for key in (
        "parameter_count", "context_length", "file_size_bytes", "block_count", "embedding_length", "head_count",
        "head_count_kv", "vocab_size",
    ):  # fmt: skip
        note = f": {hints[key]}" if key in hints else ""
        _expect(_number(found, key) == expected[key], f"{key!r} is not what the file says{note}")
    bits, right = _number(found, "bits_per_weight"), expected.bits_per_weight
    _expect(abs(bits / right - 1) < 0.03, "'bits_per_weight' is 8 times the bytes of the weights divided by their number")


def check_estimate_memory_usage(setup: Setup) -> None:
    """Check the weights, that the cache grows with the context, and that the total is more than both."""
    estimate = setup.module.estimate_memory_usage
    small, large = estimate(str(setup.path), 1024), estimate(str(setup.path), 4096)
    size = setup.path.stat().st_size
    _expect(_number(small, "file_size_bytes") == size, "'file_size_bytes' is not the size of the file in bytes")
    weights = _number(small, "weights_bytes")
    _expect(0.9 * size < weights < 1.1 * size, "'weights_bytes' should be nearly the whole file, in bytes")
    caches = [_number(one, "kv_cache_bytes") for one in (small, large)]
    _expect(caches[1] > caches[0], "'kv_cache_bytes' should grow with the context")
    _expect(abs(caches[1] / caches[0] - 4) < 0.01, "four times the context should need four times the cache")
    expected = labkit.estimate_memory_usage(setup.path, 1024, method="formula")
    ratio = caches[0] / expected.kv_cache_bytes
    _expect(ratio < 1.5, "'kv_cache_bytes' is too large: count the key/value heads, not the query heads")
    _expect(ratio > 0.7, "'kv_cache_bytes' is too small: count keys and values, 2 bytes per number, in every layer")
    totals = [_number(one, "total_bytes") for one in (small, large)]
    _expect(totals[0] > weights + caches[0], "'total_bytes' should be more than weights and cache: computing needs RAM too")
    _expect(0.6 < totals[0] / expected.total_bytes < 1.6, "'total_bytes' is far from what a loaded model needs")
    _expect(totals[1] - totals[0] >= 0.99 * (caches[1] - caches[0]), "'total_bytes' should grow with the cache")


def check_benchmark_inference(setup: Setup) -> None:
    """Check that speeds, times and memory are consistent."""
    measure, model = setup.module.benchmark_inference, setup.model
    found = measure(model, [_COUNTING, "Once upon a time"], max_tokens=8)
    total, elapsed = _number(found, "total_tokens"), _number(found, "elapsed_s")
    _expect(total > 0 and total % 16 == 0, "'total_tokens' should count the generated tokens of all prompts, 8 for each")
    _expect(elapsed > 0, "'elapsed_s' should be the elapsed time in seconds")
    speed = _number(found, "tokens_per_second")
    _expect(0.4 < speed * elapsed / total < 2.5, "'tokens_per_second' should be the generated tokens divided by the seconds")
    first = _number(found, "time_to_first_token_s")
    _expect(0 < first <= elapsed, "'time_to_first_token_s' should be in seconds, and at most 'elapsed_s'")
    _expect(_number(found, "memory_bytes") > 2**24, "'memory_bytes' should be the RSS of this process, in bytes")
    _expect(_number(found, "memory_bytes") < 2**44, "'memory_bytes' is more than any machine has: is it in bytes?")
    long = _number(measure(model, [_LONG], max_tokens=4), "time_to_first_token_s")
    _expect(
        long > 3 * first,
        "the time to first token should be longer for a prompt of 600 tokens: it includes the prompt's time",
    )


def check_count_tokens(setup: Setup) -> None:
    """Check that only the text's tokens are counted: no beginning-of-text token, no parsed control tokens."""
    count, model = setup.module.count_tokens, setup.model
    for text in ("Hello, world!", "a", "Ünïcödé 漢字 🙂", "one two  three\n\n\tfour", _LONG):
        found, expected = scalar(count(model, text)), labkit.count_tokens(model, text)
        right = isinstance(found, (numbers.Real, Decimal)) and not isinstance(found, bool)
        _expect(right, f"it should return a whole number, not {type(found).__name__}")
        _expect(found != expected + 1, "one too many: a beginning-of-text token is not part of the text")
        _expect(found == expected, "the count is wrong: count the model's tokens, not words or characters")
    found, expected = count(model, "<|im_end|>"), labkit.count_tokens(model, "<|im_end|>")
    _expect(found == expected, "text that looks like a control token is plain text: do not parse special tokens")


CHECKS: dict[str, Callable[[Setup], None]] = {
    "load_model": check_load_model,
    "generate_text": check_generate_text,
    "generate_chat": check_generate_chat,
    "get_model_info": check_get_model_info,
    "estimate_memory_usage": check_estimate_memory_usage,
    "benchmark_inference": check_benchmark_inference,
    "count_tokens": check_count_tokens,
}
