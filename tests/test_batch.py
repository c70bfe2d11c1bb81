"""generate_batch, generate_batch_results and stream_batch: each text is the same as when it is generated alone."""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import signal
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit import generate_batch, generate_batch_results, generate_text, stream_batch
from labkit.batch import parallel
from labkit.batch.parallel import fastest
from labkit.batch.slots import WORTH_COPYING, moves
from labkit.engine import stepping
from labkit.engine.prompt_cache import common_length
from labkit.quality.scoring import Window, score_windows
from labkit.system import resident_bytes
from tests import more_ghosts  # noqa: F401  # adds architectures
from tests.gguf_kinds import KINDS
from tests.tiny_models import write_tiny_model

PROMPTS = [
    "1, 2, 3, 4,", "Once upon a time", "The capital of France is", "a, b, c, d,", "Water boils at", "def add(a, b):",
    "Roses are red", "The three primary colours are", "Dear Sir or Madam,", "E = m",
]  # fmt: skip
ROUNDING = 0.1  # possible difference of logits of this size if the engine sums in a different order


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    """Load the bundled model with one thread: two wait for each other if the machine is busy."""
    with labkit.load_model(n_ctx=512, n_threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[labkit.Model]:
    """Load a tiny model that never ends a text by itself."""
    path = write_tiny_model(tmp_path_factory.mktemp("batch") / "tiny.gguf", endless=True)
    with labkit.load_model(path, n_ctx=1024, n_threads=1) as loaded:
        yield loaded


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return prompts of many lengths, some with a common prefix."""
    random_ = random.Random(seed)
    words = ("the", "end", "of", "a", "story", "that", "was", "told", "in", "town", "where", "no", "one", "has", "ever")
    return [" ".join(random_.choices(words, k=random_.randint(1, 60))) for _ in range(count)]


def assert_same_but_for_rounding(model: labkit.Model, prompt: str, batch: labkit.BatchItem, **options: Any) -> None:
    """Compare with the text generated alone; if they differ, the first different tokens must be equally likely."""
    alone = generate_text(model, prompt, temperature=0, **options)
    assert model.last_generation is not None
    ids = model.last_generation.token_ids
    if batch.text == alone:
        assert batch.n_generated == len(ids)
        return
    at = next(index for index, (a, b) in enumerate(itertools.zip_longest(ids, batch.token_ids)) if a != b)
    with model.vocabulary() as tokenizer:
        tokens = np.array([*tokenizer.prompt_tokens(prompt), *ids[:at]], np.int32)
    rows: list[Any] = []
    score_windows(model, [Window(tokens, np.zeros(1, np.int32))], 512, lambda row, _: rows.append(row[0].copy()))
    ours, theirs = (run[at] if at < len(run) else model.token_eos() for run in (batch.token_ids, ids))
    gap = abs(float(rows[0][ours] - rows[0][theirs]))
    assert gap < ROUNDING, f"{prompt!r} differs after {at} tokens, where the two logits differ by {gap}"


# -- the texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_parallel", [None, 3])
def test_greedy_texts_are_those_of_generate_text(model: labkit.Model, n_parallel: int | None) -> None:
    """Each answer equals generate_text's, for any n_parallel, on a real language model."""
    found = generate_batch_results(model, PROMPTS, 12, 0, n_parallel=n_parallel)
    assert found.n_parallel == (n_parallel or len(PROMPTS))
    for prompt, item in zip(PROMPTS, found.answers, strict=True):
        assert_same_but_for_rounding(model, prompt, item, max_tokens=12)


@pytest.mark.parametrize("n_parallel", [1, 2, 5, 16, 40, 256])
def test_more_prompts_than_slots_take_turns(tiny: labkit.Model, n_parallel: int) -> None:
    """Forty prompts of many lengths give the same texts for any n_parallel."""
    prompts = sentences(40)
    found = generate_batch_results(tiny, prompts, 12, 0, n_parallel=n_parallel)
    assert found.n_parallel == min(n_parallel, 40)
    for prompt, item in zip(prompts, found.answers, strict=True):
        assert_same_but_for_rounding(tiny, prompt, item, max_tokens=12)
        assert item.n_generated == 12


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_layers_can_be_batched(tmp_path: Path, kind: str) -> None:
    """Windows, experts, latent attention and recurrent states give the same texts as alone, with different ends."""
    path = KINDS[kind]().write(tmp_path / "model.gguf")
    prompts = ["a b c " * 6 + tail for tail in ("", "e", "f g", "h", "the end")] + ["x y", "z"]  # longer ones overflow mamba
    with labkit.load_model(path, n_ctx=256, n_threads=1) as loaded:
        for n_parallel in (2, 7):
            found = generate_batch_results(loaded, prompts, 20, 0, n_parallel=n_parallel, stop=["q"])
            for prompt, item in zip(prompts, found.answers, strict=True):
                assert_same_but_for_rounding(loaded, prompt, item, max_tokens=20, stop=["q"])


@pytest.mark.parametrize("architecture", ["jamba", "falcon-h1", "lfm2", "mamba2"])
def test_hybrids_can_be_batched(tmp_path: Path, architecture: str) -> None:
    """Layers with a state and layers with attention give the same texts as alone, with slots used repeatedly."""
    path = labkit.build_ghost_model(tmp_path / "ghost.gguf", architecture=architecture, shape="tiny")
    prompts = ["a b c " * 6 + tail for tail in ("", "e", "f g", "h", "the end")] + ["x y", "z"]
    with labkit.load_model(path, n_ctx=256, n_threads=1) as loaded:
        for n_parallel in (2, 7):
            found = generate_batch_results(loaded, prompts, 8, 0, n_parallel=n_parallel)
            for prompt, item in zip(prompts, found.answers, strict=True):
                assert_same_but_for_rounding(loaded, prompt, item, max_tokens=8)


def test_repeated_steps_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that was ended early, after parts of its batch were computed, is computed again with the same result."""
    path = write_tiny_model(tmp_path / "tiny.gguf", endless=True)
    call, calls = stepping.Stepper._call, itertools.count()

    def ended_at_times(steps: stepping.Stepper, *rest: Any) -> tuple[int, bool]:
        done = call(steps, *rest)
        return (stepping._ABORTED, True) if next(calls) % 3 == 0 else done

    with labkit.load_model(path, n_ctx=512) as adaptive:
        prompts = sentences(9, seed=3)
        want = generate_batch(adaptive, prompts, 12, 0, n_parallel=4)
        monkeypatch.setattr(stepping.Stepper, "_call", ended_at_times)
        assert generate_batch(adaptive, prompts, 12, 0, n_parallel=4) == want
    assert next(calls) > 20


def test_small_batches_of_tokens_change_nothing(tmp_path: Path) -> None:
    """Prompts longer than n_batch are computed in pieces while others generate."""
    path = write_tiny_model(tmp_path / "tiny.gguf", endless=True)
    prompts = sentences(9, seed=1)
    with labkit.load_model(path, n_ctx=512, n_threads=1, n_batch=16) as small:
        found = generate_batch_results(small, prompts, 12, 0, n_parallel=4)
        for prompt, item in zip(prompts, found.answers, strict=True):
            assert_same_but_for_rounding(small, prompt, item, max_tokens=12)


def test_a_seed_gives_the_same_texts_for_any_n_parallel(tiny: labkit.Model) -> None:
    """Prompt i is sampled with seed + i, as generate_text with that seed."""
    prompts = sentences(12, seed=2)
    texts = [generate_batch(tiny, prompts, 16, 1.0, seed=7, n_parallel=n) for n in (1, 4, 12)]
    assert texts[0] == texts[1] == texts[2]
    assert texts[0] == [generate_text(tiny, prompt, 16, 1.0, seed=7 + index) for index, prompt in enumerate(prompts)]
    assert generate_batch(tiny, ["a"] * 4, 16, 1.0, seed=7) != generate_batch(tiny, ["a"] * 4, 16, 1.0, seed=8)


def test_equal_prompts_have_different_seeds(tiny: labkit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same prompt four times gives four texts, with and without a seed; each item has its seed."""
    seeded = generate_batch_results(tiny, ["the end"] * 4, 24, 1.0, seed=3)
    assert [item.seed for item in seeded.answers] == [3, 4, 5, 6]
    assert len(set(seeded.texts)) == 4
    for item in seeded.answers:
        assert generate_text(tiny, "the end", 24, 1.0, seed=item.seed) == item.text
    drawn = generate_batch_results(tiny, ["the end"] * 4, 24, 1.0)
    assert len({item.seed for item in drawn.answers}) == len(set(drawn.texts)) == 4
    # Draw 3, 4, 5 and 6: as the same batch again, its texts have no other rounding.
    numbers = iter(range(3, 7))
    source = types.SimpleNamespace(urandom=lambda size: next(numbers).to_bytes(size, "little"))
    monkeypatch.setattr("labkit.engine.sampler.os", source)
    drawn = generate_batch_results(tiny, ["the end"] * 4, 24, 1.0)
    assert [(item.seed, item.text) for item in drawn.answers] == [(item.seed, item.text) for item in seeded.answers]


def test_seeds_wrap_around(tiny: labkit.Model) -> None:
    """After the highest seed of llama.cpp, seeds continue from 0."""
    found = generate_batch_results(tiny, ["a", "b"], 2, seed=2**32 - 2)
    assert [item.seed for item in found.answers] == [2**32 - 2, 0]


def test_stops_and_penalties_work_for_each_prompt(tiny: labkit.Model) -> None:
    """A stop sequence split over tokens ends only the text that contains it; kwargs are those of generate_text."""
    prompts = sentences(8, seed=3)
    texts = generate_batch(tiny, prompts, 40, 0)
    stop = texts[0][9:14]
    for options in ({"stop": stop}, {"stop": [stop, "e"], "repeat_penalty": 1.3}, {"top_k": 1}):
        found = generate_batch(tiny, prompts, 40, 0, **options)  # type: ignore[arg-type]
        assert found == [generate_text(tiny, prompt, 40, 0, **options) for prompt in prompts]  # type: ignore[arg-type]
    assert generate_batch(tiny, prompts, 40, 0, stop=stop)[0] == texts[0][: texts[0].index(stop)]


def test_texts_end_at_different_times(tmp_path: Path) -> None:
    """With max_tokens=None each text ends when the model ends it, or at the end of the context."""
    path = write_tiny_model(tmp_path / "tiny.gguf", seed=3, scale=0.2)
    prompts = sentences(10, seed=4)
    with labkit.load_model(path, n_ctx=256, n_threads=1) as ending:
        found = generate_batch_results(ending, prompts, None, 1.0, seed=1, n_parallel=3)
    assert "end" in {item.finish_reason for item in found.answers}
    assert len({item.n_generated for item in found.answers}) > 3
    for item in found.answers:
        assert item.finish_reason == "end" or item.n_prompt + item.n_generated == 256


def test_texts_have_whole_characters(tiny: labkit.Model) -> None:
    """Partial characters of different texts are never mixed; chunks joined are the text."""
    prompts = ["é", "漢字", "😀", "añ", "ß"]
    found = generate_batch_results(tiny, prompts, 60, 1.5, seed=5).answers
    parts: dict[int, list[str]] = {}
    for chunk in stream_batch(tiny, prompts, 60, 1.5, seed=5):
        parts.setdefault(chunk.index, []).append(chunk.text)
    assert ["".join(parts[index]) for index in range(5)] == [answer.text for answer in found]
    for answer in found:  # not compared with generate_text: where logits differ by rounding, another token can be drawn
        assert answer.text == tiny.detokenize(answer.token_ids).decode(errors="replace")


def test_a_grammar_applies_to_each_text(model: labkit.Model) -> None:
    """Every answer follows the schema; each sequence has a separate grammar."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
    texts = generate_batch(model, ["A number as JSON: ", "Another: "], 24, 0, json_schema=schema)
    for text in texts:
        assert isinstance(json.loads(text)["n"], int)
    assert generate_batch(model, PROMPTS[:3], 4, 0.7, grammar='root ::= "yes" | "no"') != ["", "", ""]


def test_control_tokens_are_parsed_only_on_request(tiny: labkit.Model) -> None:
    """parse_special works as in generate_text."""
    text = "<|im_start|>a"
    plain, special = (generate_batch_results(tiny, [text], 4, 0, parse_special=flag) for flag in (False, True))
    assert plain.answers[0].n_prompt > special.answers[0].n_prompt == 2


# -- shared computation ------------------------------------------------------------------------------------------------


def test_a_shared_prefix_is_computed_once(tiny: labkit.Model) -> None:
    """A prefix of all prompts is computed for one of them, and copied to the others."""
    prefix = "the story of the town " * 20
    prompts = [prefix + tail for tail in ("one", "two and", "three", "four of them", "five", "six")]
    n_shared = labkit.count_tokens(tiny, prefix)
    sizes = [labkit.count_tokens(tiny, prompt) for prompt in prompts]
    for n_parallel in (1, 2, 6):
        found = generate_batch_results(tiny, prompts, 8, 0, n_parallel=n_parallel)
        assert found.n_prompt_computed + found.n_prompt_shared == sum(sizes)
        assert found.n_prompt_computed < n_shared + 8 * len(prompts)
        for prompt, item in zip(prompts, found.answers, strict=True):
            assert_same_but_for_rounding(tiny, prompt, item, max_tokens=8)


def test_prefixes_are_shared_in_groups(tiny: labkit.Model) -> None:
    """With two groups of prompts, each group's prefix is computed once."""
    prefixes = ["the end of the world " * 12, "a boat on the water " * 12]
    prompts = [prefix + tail for tail in ("a", "b", "c", "d") for prefix in prefixes]
    found = generate_batch_results(tiny, prompts, 6, 0)
    assert found.n_prompt_computed < sum(labkit.count_tokens(tiny, prefix) for prefix in prefixes) + 8 * len(prompts)
    assert found.texts == [generate_text(tiny, prompt, 6, 0) for prompt in prompts]


def test_the_same_prompt_is_computed_once(tiny: labkit.Model) -> None:
    """All tokens but the last are shared: each sequence needs the last one's logits."""
    prompt = "the end of a story " * 10
    found = generate_batch_results(tiny, [prompt] * 8, 6, 0)
    size = labkit.count_tokens(tiny, prompt)
    assert found.n_prompt_computed == size + 7
    assert [item.n_shared for item in found.answers].count(size - 1) == 7
    assert len(set(found.texts)) == 1


def test_steps_with_a_window_are_never_repeated(tmp_path: Path) -> None:
    """Later parts of a step may overwrite cells of a window that its first part needs: nothing ends such a step early."""
    path = write_tiny_model(tmp_path / "window.gguf", architecture="gemma3")
    for swa_full in (False, True):  # a full cache keeps all cells
        with labkit.load_model(path, n_ctx=512, swa_full=swa_full) as model:

            def is_watched(job: Any, model: labkit.Model = model) -> bool:
                with model.steps(job, ctx=model.native.ctx) as steps:
                    return steps._watchdog is not None

            assert model.compute(is_watched) == (swa_full and model._threads is not None)


@pytest.mark.parametrize("kind", ["gemma3", "mamba"])
def test_windows_and_states_share_nothing(tmp_path: Path, kind: str) -> None:
    """These caches cannot be truncated, so each prompt is computed completely."""
    with labkit.load_model(KINDS[kind]().write(tmp_path / "model.gguf"), n_ctx=256, n_threads=1) as loaded:
        found = generate_batch_results(loaded, ["a b c d " * 12] * 3, 4, 0)
    assert found.n_prompt_shared == 0


def test_the_number_of_steps_is_minimal(tiny: labkit.Model) -> None:
    """Sixteen texts together need as many calls as one; eight at a time, twice as many."""
    prompts = ["a", "b", "c", "d"] * 4
    assert generate_batch_results(tiny, prompts, 20, 0).n_decodes == 20
    assert generate_batch_results(tiny, prompts, 20, 0, n_parallel=8).n_decodes == 40


def test_a_text_that_ends_is_replaced_at_once(tmp_path: Path) -> None:
    """With ends at different times, no slot is empty while prompts wait."""
    path = write_tiny_model(tmp_path / "tiny.gguf", seed=3, scale=0.2)
    with labkit.load_model(path, n_ctx=256, n_threads=1) as ending:
        found = generate_batch_results(ending, sentences(24, seed=5), 100, 1.0, seed=2, n_parallel=4)
    counts = [item.n_generated for item in found.answers]
    assert max(counts) > 2 * min(counts)
    assert found.n_decodes <= sum(count + 2 for count in counts) / 4 + max(counts) + 2


def test_results_have_times_and_counts(tiny: labkit.Model) -> None:
    """The batch and its items have times, counts and reasons."""
    found = generate_batch_results(tiny, ["a", "the end"], 10, 0)
    assert (found.n_parallel, found.reason, found.n_generated) == (2, "all prompts together", 20)
    assert found.tokens_per_second == pytest.approx(20 / found.elapsed_s)
    for index, item in enumerate(found.answers):
        assert (item.index, item.finish_reason, item.n_generated, item.error) == (index, "length", 10, None)
        assert 0 < item.time_to_first_token_s < item.elapsed_s < found.elapsed_s
        assert str(item) == item.text == found["answers"][index]["text"]
    assert found.errors == {}


# -- streams, progress, interrupts --------------------------------------------------------------------------------------


def test_a_stream_has_the_prompt_s_index(tiny: labkit.Model) -> None:
    """Chunks of all prompts are interleaved, and each prompt's last one has the reason of its end."""
    prompts = sentences(5, seed=6)
    chunks = list(stream_batch(tiny, prompts, 10, 0, n_parallel=3))
    texts = ["".join(chunk.text for chunk in chunks if chunk.index == index) for index in range(5)]
    assert texts == generate_batch(tiny, prompts, 10, 0)
    assert [chunk.index for chunk in chunks[:6]] != sorted(chunk.index for chunk in chunks[:6])
    ends = [chunk for chunk in chunks if chunk.finish_reason is not None]
    assert sorted(chunk.index for chunk in ends) == list(range(5))


def test_a_stream_that_is_closed_frees_the_model(tiny: labkit.Model) -> None:
    """Closing it early ends the batch, and the next call works."""
    with stream_batch(tiny, ["a", "b"], 1000, 0) as stream:
        next(stream)
    assert generate_text(tiny, "a", 4, 0) == generate_batch(tiny, ["a"], 4, 0)[0]


def test_progress_counts_tokens(tmp_path: Path) -> None:
    """Progress is the tokens done and the total; tokens saved by an early end count as done."""
    seen: list[tuple[int, int]] = []
    path = write_tiny_model(tmp_path / "tiny.gguf", seed=3, scale=0.2)
    with labkit.load_model(path, n_ctx=256, n_threads=1) as ending:
        generate_batch(ending, sentences(6), 50, 1.0, seed=1, n_parallel=2, progress=lambda *now: seen.append(now))
    assert {total for _, total in seen} == {300}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (300, 300)


def test_an_error_in_progress_reaches_the_caller(tiny: labkit.Model) -> None:
    """An exception in the progress function ends the batch, and the model works afterwards."""

    def fail(done: int, total: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        generate_batch(tiny, ["a", "b"], 8, progress=fail)
    assert generate_batch(tiny, ["a"], 2, 0)
    with pytest.raises(labkit.ArgumentTypeError, match="progress"):
        generate_batch(tiny, ["a", "b"], 8, progress="yes")  # type: ignore[arg-type]


def test_cancel_returns_partial_texts(model: labkit.Model) -> None:
    """model.cancel() from another thread ends a batch; the model is usable after."""

    def cancel() -> None:
        time.sleep(0.7)
        while not model.cancel():  # on a busy machine it may come before the batch begins
            time.sleep(0.01)

    threading.Thread(target=cancel).start()
    found = generate_batch_results(model, PROMPTS, 400, 0, n_parallel=4)
    assert "cancelled" in {item.finish_reason for item in found.answers}
    assert found.answers[-1].text == ""
    assert generate_text(model, "1, 2, 3, 4,", 6, 0) == " 5, 6,"


def test_ctrl_c_ends_a_long_prefill(model: labkit.Model) -> None:
    """KeyboardInterrupt is raised within seconds, and the model is usable after."""
    prompts = [f"{index} " + "word after word " * 100 for index in range(40)]
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        generate_batch(model, prompts, 100, 0, n_parallel=8)
    assert time.monotonic() - started < 5
    assert generate_text(model, "1, 2, 3, 4,", 6, 0) == " 5, 6,"


def test_close_ends_a_batch(tmp_path: Path) -> None:
    """close() from another thread raises a clear error in the waiting call."""
    loaded = labkit.load_model(write_tiny_model(tmp_path / "tiny.gguf", endless=True), n_ctx=4096, n_threads=1)
    timer = threading.Timer(0.3, loaded.close)
    timer.start()
    with pytest.raises(labkit.ModelClosedError, match="closed"):
        generate_batch(loaded, ["a"] * 8, 4000, 0)
    with pytest.raises(labkit.ModelClosedError):
        generate_batch(loaded, [])


def test_memory_is_freed(tiny: labkit.Model) -> None:
    """Twenty batches with caches of several MiB do not increase the RSS."""
    prompts = sentences(32)
    generate_batch(tiny, prompts, 700, 0, n_parallel=2, stop="e")
    gc.collect()
    before = resident_bytes()
    for _ in range(20):
        generate_batch(tiny, prompts, 700, 0, n_parallel=32, stop="e")
    gc.collect()
    assert resident_bytes() - before < 16 * 1024**2


def test_a_batch_does_not_change_the_model_s_cache(tiny: labkit.Model) -> None:
    """A cached prompt is still cached after a batch."""
    prompt = "the end of a story " * 60
    generate_text(tiny, prompt, 4, 0)
    generate_batch(tiny, ["a", "b"], 4, 0)
    generate_text(tiny, prompt, 4, 0)
    assert tiny.last_generation is not None
    assert tiny.last_generation.n_reused > 0


# -- errors ------------------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_fails_alone(tiny: labkit.Model) -> None:
    """Its item has the error, with its index in the message; the others have their texts."""
    prompts = ["a", "the end " * 2000, "b"]
    found = generate_batch_results(tiny, prompts, 8, 0)
    assert found.texts == [generate_text(tiny, "a", 8, 0), "", generate_text(tiny, "b", 8, 0)]
    assert set(found.errors) == {1}
    error = found.errors[1]
    assert isinstance(error, labkit.ContextOverflowError)
    assert str(error).startswith("prompts[1]: the prompt has")
    assert error.n_ctx == 1024
    last = {chunk.index: chunk for chunk in stream_batch(tiny, prompts, 8, 0)}
    assert isinstance(last[1].error, labkit.ContextOverflowError)
    assert last[0].finish_reason == "length"
    with pytest.raises(labkit.ContextOverflowError, match=r"prompts\[1\]") as caught:
        generate_batch(tiny, prompts, 8, 0)
    assert caught.value.n_prompt > 1024


def test_a_grammar_that_allows_nothing_fails_alone(tiny: labkit.Model) -> None:
    """If the grammar allows no token, only that item fails."""
    options: dict[str, Any] = {"grammar": 'root ::= "\\U0001F9FF"'}
    found = generate_batch_results(tiny, ["a", "b"], 30, 0, **options)
    assert all(item.error is not None or item.text in ("", "🧿") for item in found.answers)


@pytest.mark.parametrize(
    ("prompts", "options", "needed"),
    [
        ("one text", {}, r"prompts must be a list of texts"),
        (b"bytes", {}, r"prompts must be a list of texts"),
        ({"a": 1}, {}, r"prompts must be a list of texts"),
        (None, {}, r"prompts must be a list of texts"),
        (["a", 5], {}, r"prompts\[1\] must be text"),
        (["a", None], {}, r"prompts\[1\] must be text"),
        (["a", b"b"], {}, r"prompts\[1\] must be text"),
        (["a", "\ud800"], {}, r"prompts\[1\]: prompt has a lone surrogate"),
        (["a"], {"n_parallel": 0}, r"n_parallel=0 is out of range: it must be 1 to 256"),
        (["a"], {"n_parallel": 257}, r"n_parallel=257 is out of range"),
        (["a"], {"n_parallel": "4"}, r"n_parallel must be an integer"),
        (["a"], {"n_parallel": True}, r"n_parallel must be an integer"),
        (["a"], {"max_tokens": -1}, r"max_tokens=-1 is out of range"),
        (["a"], {"temperature": float("nan")}, r"temperature"),
        (["a"], {"seeds": 1}, r"unknown argument 'seeds'"),
        (["a"], {"stop": [""]}, r"stop contains an empty text"),
        ([], {"n_parallel": -1}, r"n_parallel=-1 is out of range"),
    ],
)
def test_wrong_arguments_are_one_line(tiny: labkit.Model, prompts: Any, options: dict[str, Any], needed: str) -> None:
    """Each message says what was given and what is needed, before anything is computed."""
    with pytest.raises(labkit.LabkitError, match=needed) as caught:
        generate_batch(tiny, prompts, **options)
    assert "\n" not in str(caught.value)


def test_nothing_requested_is_nothing(tiny: labkit.Model) -> None:
    """Without prompts there are no texts; with max_tokens=0 they are empty."""
    assert generate_batch(tiny, []) == generate_batch(tiny, ()) == []
    assert generate_batch(tiny, ["a", "b"], 0) == ["", ""]
    found = generate_batch_results(tiny, ["a"], 0)
    assert (found.n_parallel, found.answers[0].finish_reason) == (0, "length")
    assert [chunk.finish_reason for chunk in stream_batch(tiny, ["a"], 0)] == ["length"]
    assert list(stream_batch(tiny, [])) == []


def test_a_closed_or_wrong_model_is_an_error(tmp_path: Path) -> None:
    """Both are errors, for an empty list of prompts too."""
    closed = labkit.load_model(write_tiny_model(tmp_path / "tiny.gguf"), n_ctx=256)
    closed.close()
    for prompts in ([], ["a"]):
        with pytest.raises(labkit.ModelClosedError):
            generate_batch(closed, prompts)
        with pytest.raises(labkit.ArgumentTypeError, match="load_model"):
            generate_batch("model.gguf", prompts)  # type: ignore[arg-type]


# -- how many together -------------------------------------------------------------------------------------------------


def test_n_parallel_is_limited_by_ram(tiny: labkit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little free RAM, fewer run at a time; requesting more is an error with the number that fits."""
    prompts = sentences(12)
    two = parallel._needed(tiny, 2, 256)
    monkeypatch.setattr(parallel, "available_ram_bytes", lambda: int(two / 0.9) + 2)
    found = generate_batch_results(tiny, prompts, 4, 0)
    assert (found.n_parallel, found.reason) == (2, "2 fit into the free RAM")
    with pytest.raises(labkit.GenerationError, match=r"choose\s+n_parallel=2 or less") as caught:
        generate_batch(tiny, prompts, 4, 0, n_parallel=8)
    assert "\n" not in str(caught.value)


def test_the_fastest_number_is_timed_once(tiny: labkit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """For many prompts steps are timed and stored; for a kernel that computes 16 at a time, the choice is 16."""
    timed: list[list[int]] = []
    original = parallel._time_steps

    def count(*args: Any) -> dict[int, float]:
        timed.append(list(args[2]))
        times = original(*args)
        assert all(seconds > 0 for seconds in times.values())
        return {size: float(-(-size // 16)) for size in times}

    monkeypatch.setattr(parallel, "_time_steps", count)
    prompts = sentences(48)
    for _ in range(2):
        found = generate_batch_results(tiny, prompts, 4, 0)
        assert found.n_parallel == 16
        assert "16 at a time are fastest" in found.reason
    assert timed == [[1, 8, 16, 24, 32, 48]]
    generate_batch(tiny, prompts[:16], 4, 0)
    assert len(timed) == 1


@given(st.integers(1, 300), st.integers(1, 256), st.lists(st.floats(0.01, 10), min_size=7, max_size=7))
def test_the_fastest_number_is_possible(n_prompts: int, n_most: int, seconds: list[float]) -> None:
    """For any times, the choice is at least 1 and at most the number that fits."""
    times = dict(zip((1, 8, 16, 24, 32, 48, 64), seconds, strict=True))
    assert 1 <= fastest(times, n_prompts, min(n_most, n_prompts)) <= min(n_most, n_prompts)


@given(st.sets(st.integers(0, 40)))
def test_moves_leave_no_gap(active: set[int]) -> None:
    """Whichever sequences end, the others are adjacent after the moves, and none overwrites another."""
    left = set(active)
    for source, target in moves(sorted(active)):
        assert source in left
        assert target not in left
        left = (left - {source}) | {target}
    assert len(left) == len(active)
    assert not left or max(left) - min(left) == len(left) - 1


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.integers(0, 10))
def test_common_length_is_the_longest(first: list[int], second: list[int], most: int) -> None:
    """All tokens up to it are equal, and the next ones differ."""
    length = common_length(first, second, most)
    assert first[:length] == second[:length]
    assert length in (most, len(first), len(second)) or first[length] != second[length]
    assert WORTH_COPYING > 1
