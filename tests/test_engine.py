"""load_model and Model, generate_*, stream_*, count_*: every promise of the API, on a real model."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import psutil
import pytest

import labkit
from labkit import count_chat_tokens, count_tokens, generate_chat, generate_text, load_model, stream_chat, stream_text
from labkit.chat.prompt import ChatTokenizer
from labkit.engine.native import C
from labkit.system import logical_cores_available
from tests.tiny_models import write_tiny_model

MESSAGES = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    with load_model(n_ctx=1024) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def reference() -> Iterator[llama_cpp.Llama]:
    """Load with llama-cpp-python's own class and the same settings, for comparison."""
    llama = llama_cpp.Llama(str(labkit.bundled_model_path()), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    yield llama
    llama.close()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.gguf")


# -- loading ----------------------------------------------------------------------------------------------------------


def test_load_model_gives_a_llama_that_is_a_context_manager(tiny: Path) -> None:
    """A Model is a Llama, closes at the end of a with block, and may be closed twice."""
    with load_model(tiny) as model:
        assert isinstance(model, llama_cpp.Llama)
        assert model.model_path == str(tiny)
        assert not model.is_closed
    assert model.is_closed
    model.close()
    with pytest.raises(labkit.ModelClosedError, match="load it again"):
        generate_text(model, "a")


def test_load_model_takes_names_paths_and_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled model by default and by its name; a file as str and as Path, whose path stays valid in other folders."""
    for source in (None, "smollm2-135m"):
        with load_model(source, n_ctx=256) as model:
            assert "SmolLM2" in model.model_path
    monkeypatch.chdir(tiny.parent)
    for path in (tiny, str(tiny), tiny.name):
        with load_model(path, n_ctx=256) as model:
            assert model.n_ctx() == 256
            assert model.model_path == str(tiny)


def test_the_lab_s_example_works_as_written() -> None:
    """Load, generate, chat with a system message, print: as in the lab's handout."""
    model = load_model(n_ctx=2048, n_threads=4)
    assert isinstance(generate_text(model, "Once upon a time", max_tokens=5), str)
    assert isinstance(generate_chat(model, MESSAGES, max_tokens=5), str)
    model.close()


def test_threads_without_a_core_do_not_compute(tiny: Path) -> None:
    """A number of threads beyond the cores is kept in the settings with a reason, and computes with the cores there are."""
    cores = logical_cores_available()
    with load_model(tiny, n_threads=cores + 2) as model:
        generate_text(model, "a", 3)
        assert model.settings.n_threads == cores + 2
        assert f"no more than {cores} compute" in model.settings.reasons["n_threads"]
        assert model.last_generation is not None
        assert model.last_generation.n_threads == cores


@pytest.mark.parametrize(("asked", "given"), [(1, 256), (256, 256), (257, 512), (1000, 1024), (0, 4096)])
def test_context_is_rounded_up_to_256(tiny: Path, asked: int, given: int) -> None:
    """n_ctx is the size that llama.cpp allocates; 0 is the size used in training."""
    with load_model(tiny, n_ctx=asked) as model:
        assert model.n_ctx() == model.settings.n_ctx == given


def test_settings_say_what_was_chosen_and_why(tiny: Path) -> None:
    """Every choice is in model.settings; the reasons are sentences; given settings are kept."""
    with load_model(n_ctx=256, n_threads=1, use_mmap=False, flash_attn=True, type_k="q8_0", type_v="q8_0") as model:
        settings = model.settings
    assert (settings.n_threads, settings.n_threads_batch, settings.use_mmap) == (1, 1, False)
    assert (settings.flash_attn, settings.type_k, settings.type_v, settings.n_outputs_max) == (True, "q8_0", "q8_0", 1)
    assert "flash_attn" not in settings.reasons
    with load_model(tiny) as model:
        assert set(model.settings.reasons) >= {"flash_attn", "use_mmap", "n_outputs_max"}


def test_settings_reach_the_engine() -> None:
    """The engine's log reports the settings that Llama cannot set."""
    with load_model(n_ctx=512, type_k="q8_0", flash_attn=True) as model:
        log = model.load_log
    assert re.search(r"n_outputs_max\s+= 1\b", log)
    assert re.search(r"flash_attn\s+= enabled", log)
    assert "K (q8_0)" in log


def test_f32_cache_is_not_mistaken_for_the_default(tiny: Path) -> None:
    """type_k="f32" is type number 0, and is passed on as such."""
    with load_model(tiny, type_k="f32", type_v=0) as model:
        assert "K (f32)" in model.load_log
        assert "V (f32)" in model.load_log


def test_threads_default_to_the_physical_cores(tiny: Path) -> None:
    """n_threads=None is the number of physical cores that this process may use."""
    from labkit.system import physical_cores_available

    with load_model(tiny) as model:
        assert C.llama_n_threads(model.ctx) == C.llama_n_threads_batch(model.ctx) == physical_cores_available()


def test_repacked_weights_are_not_kept_twice(tmp_path: Path) -> None:
    """If this CPU repacks weights, the file is read, not mapped; otherwise it is mapped."""
    with load_model(n_ctx=256) as model:
        assert model.settings.use_mmap is ("CPU_REPACK" not in model.load_log)


def test_gpu_layers_without_a_gpu_warn_once_and_run(tiny: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Requesting GPU layers without a GPU backend warns once and runs on the CPU."""
    if labkit.engine_build().has_gpu:
        pytest.fail("these tests are for a build without a GPU backend; run them there")
    from labkit.engine import loading

    loading._warned.clear()
    for _ in range(2):
        with pytest.warns(labkit.LabkitWarning, match="GPU") if not loading._warned else contextlib.nullcontext():
            model = load_model(tiny, n_gpu_layers=-1)
        assert model.settings.n_gpu_layers == 0
        model.close()


def test_load_failure_carries_the_engine_s_reason(tmp_path: Path) -> None:
    """If a file parses but the engine refuses it, the error has the engine's reason."""
    path = write_tiny_model(tmp_path / "unknown.gguf")
    data = path.read_bytes().replace(b"blk.1.attn_q.weight", b"blk.1.attn_X.weight")
    path.write_bytes(data)
    with pytest.raises(labkit.LabkitError, match=r"attn_q|attn_X") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kv_overrides": {"tokenizer.ggml.pre": "nope"}}, "unknown pre-tokenizer type: 'nope'"),
    ],
)
def test_load_failure_says_what_the_engine_logged_as_an_error(tiny: Path, options: dict[str, Any], reason: str) -> None:
    """The only error in a hundred lines of log is the reason."""
    with pytest.raises(labkit.ModelLoadError, match=re.escape(reason)) as caught:
        load_model(tiny, **options)
    assert "tiny.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)
    load_model(tiny).close()


def test_a_bad_adapter_is_refused(tiny: Path, tmp_path: Path) -> None:
    """An invalid LoRA file, or one for another model, is an error; llama-cpp-python silently loads without it."""
    with pytest.raises(labkit.ArgumentError, match="not a LoRA adapter"):
        load_model(tiny, lora_path=str(tiny))
    adapter = write_tiny_model(tmp_path / "adapter.gguf", architecture="gemma3", keys={"general.type": "adapter"})
    with pytest.raises(labkit.ModelLoadError):
        load_model(tiny, lora_path=str(adapter))


@pytest.mark.skipif(sys.platform != "linux", reason="RSS has another meaning on other systems")
def test_closing_gives_memory_back(model: labkit.Model) -> None:
    """A closed model's memory is free for other programs, not kept by the C library."""
    process = psutil.Process()
    gc.collect()  # not in between
    before = process.memory_info().rss
    for _ in range(3):
        other = load_model(n_ctx=1024, use_mmap=False)
        generate_text(other, "a", 2)
        grown = process.memory_info().rss - before
        other.close()
        assert grown > 64 * 1024**2
        assert process.memory_info().rss - before < 32 * 1024**2


def test_loading_is_silent_unless_verbose(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed by default; verbose=True prints the engine's log to stderr."""
    with load_model(tiny) as model:
        generate_text(model, "a", 3)
    assert capfd.readouterr() == ("", "")
    load_model(tiny, verbose=True).close()
    assert "n_ctx_train" in capfd.readouterr().err


def test_progress_goes_from_0_to_1(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A function gets fractions that grow to 1; True shows a bar on stderr."""
    seen: list[float] = []
    load_model(tiny, progress=seen.append).close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    load_model(tiny, progress=True).close()
    assert "tiny.gguf" in capfd.readouterr().err


def test_unknown_argument_names_the_near_one(tiny: Path) -> None:
    """A misspelled keyword is an error that names the most similar one."""
    with pytest.raises(labkit.ArgumentTypeError, match="n_threads_batch"):
        load_model(tiny, n_thread_batch=2)


# -- generating -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["1, 2, 3, 4,", "The capital of France is", "def fibonacci(n):", "Ünïcödé 你好"])
def test_greedy_text_equals_llama_cpp_python(model: labkit.Model, reference: llama_cpp.Llama, prompt: str) -> None:
    """At temperature 0 the text is that of llama-cpp-python's own loop for the same tokens."""
    reference.reset()
    expected = reference.create_completion(prompt, max_tokens=16, temperature=0)["choices"][0]["text"]
    assert generate_text(model, prompt, max_tokens=16, temperature=0) == expected


def test_greedy_chat_equals_llama_cpp_python(model: labkit.Model, reference: llama_cpp.Llama) -> None:
    """At temperature 0 the answer is that of create_chat_completion."""
    reference.reset()
    expected = reference.create_chat_completion(MESSAGES, max_tokens=16, temperature=0)["choices"][0]["message"]["content"]
    assert generate_chat(model, MESSAGES, max_tokens=16, temperature=0) == expected


def test_llama_s_own_methods_work_on_a_model(model: labkit.Model) -> None:
    """llama-cpp-python's methods and streams work between labkit's calls, and do not affect them."""
    before = generate_text(model, "1, 2, 3, 4,", 6, temperature=0)
    completion = model.create_completion("1, 2, 3, 4,", max_tokens=6, temperature=0)
    assert completion["choices"][0]["text"] == before
    streamed = model.create_completion("1, 2, 3, 4,", max_tokens=6, temperature=0, stream=True)
    assert "".join(part["choices"][0]["text"] for part in streamed) == before
    assert generate_text(model, "1, 2, 3, 4,", 6, temperature=0) == before


@pytest.mark.parametrize("function", ["text", "chat"])
def test_stream_joined_equals_whole(model: labkit.Model, function: str) -> None:
    """The chunks' texts joined are the text of the non-streaming call; the last chunk has the finish reason."""
    settings: dict[str, Any] = {"max_tokens": 24, "temperature": 1.2, "seed": 11}
    if function == "text":
        chunks, whole = list(stream_text(model, "Once", **settings)), generate_text(model, "Once", **settings)
    else:
        chunks, whole = list(stream_chat(model, MESSAGES, **settings)), generate_chat(model, MESSAGES, **settings)
    assert "".join(chunk.text for chunk in chunks) == whole
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])
    assert chunks[-1].finish_reason in ("end", "length")
    assert 0 < chunks[-1].time_to_first_token_s <= chunks[-1].elapsed_s


def test_chunks_say_how_many_threads_computed_them() -> None:
    """Each chunk has the threads of its last token; for the first token, only the prompt is computed."""
    with labkit.load_model(n_ctx=256, n_threads=1) as pinned:
        chunks = list(stream_text(pinned, "The capital of France is", 8, temperature=0))
    assert [chunk.n_threads for chunk in chunks] == [0] + [1] * (len(chunks) - 1)


def test_seed_repeats_a_text_and_another_changes_it(model: labkit.Model) -> None:
    """The same seed gives the same text, whatever was generated in between; without one texts differ."""
    texts = []
    for _ in range(2):
        texts.append(generate_text(model, "My favourite", 20, temperature=1.0, seed=5))
        generate_text(model, "something else entirely", 10)
    assert texts[0] == texts[1]
    assert len({generate_text(model, "My favourite", 20, temperature=1.0) for _ in range(4)}) > 1


def test_report_s_seed_repeats_the_text(model: labkit.Model) -> None:
    """Without a given seed, model.last_generation.seed is the random one."""
    text = generate_text(model, "My favourite", 20, temperature=1.0)
    assert model.last_generation is not None
    assert generate_text(model, "My favourite", 20, temperature=1.0, seed=model.last_generation.seed) == text


def test_stop_sequences_never_appear_even_split_over_tokens(tmp_path: Path) -> None:
    """Every part of a text as stop sequence: the result is the text up to its first appearance."""
    settings: dict[str, Any] = {"temperature": 1.5, "seed": 7}
    with load_model(write_tiny_model(tmp_path / "endless.gguf", endless=True), n_ctx=256, n_threads=1) as model:
        whole = generate_text(model, "a", 60, **settings)
        parts = {whole[start : start + length] for length in (1, 2, 3, 5, 8) for start in range(len(whole) - length)}
        stops = [part for part in parts if "\ufffd" not in part]  # a byte that is not text
        assert len(stops) > 60
        for stop in stops:
            assert generate_text(model, "a", 60, stop=stop, **settings) == whole[: whole.index(stop)]
        assert model.last_generation is not None
        assert model.last_generation.finish_reason == "stop"


def test_the_first_of_several_stop_sequences_ends_the_text(model: labkit.Model) -> None:
    """Of a list, the one that appears first counts."""
    whole = generate_text(model, "1, 2, 3, 4,", 24, temperature=0)
    assert generate_text(model, "1, 2, 3, 4,", 24, temperature=0, stop=["zzz", "5", " 6"]) == whole[: whole.index("5")]
    assert model.last_generation is not None
    assert model.last_generation.finish_reason == "stop"


def test_max_tokens_counts_tokens(model: labkit.Model) -> None:
    """Requesting n tokens gives n by llama.cpp's own counter; 0 is an empty text."""
    assert generate_text(model, "Once upon a time", 0) == ""
    assert [chunk.finish_reason for chunk in stream_text(model, "Once", 0)] == ["length"]
    C.llama_perf_context_reset(model.ctx)
    generate_text(model, "1, 2, 3, 4,", 12, temperature=0)
    counted = C.llama_perf_context(model.ctx)
    assert counted.n_eval == 11  # the last token is sampled, not decoded
    assert counted.n_p_eval == count_tokens(model, "1, 2, 3, 4,")


def test_max_tokens_none_fills_the_context(tiny: Path) -> None:
    """With None the text ends where the model ends it or the context is full."""
    with load_model(tiny, n_ctx=256) as model:
        generate_text(model, "a", None, temperature=2.0, seed=3)
        report = model.last_generation
    assert report is not None
    assert report.finish_reason == "end" or report.n_prompt + report.n_generated == 256


def test_overflow_is_raised_before_anything_is_computed(model: labkit.Model) -> None:
    """ContextOverflowError carries the three numbers, and the engine has decoded nothing."""
    C.llama_perf_context_reset(model.ctx)
    before = C.llama_perf_context(model.ctx).n_p_eval
    with pytest.raises(labkit.ContextOverflowError, match="n_ctx=") as caught:
        generate_text(model, "word " * 1200, max_tokens=10)
    assert isinstance(caught.value, ValueError)
    assert (caught.value.n_prompt, caught.value.max_tokens, caught.value.n_ctx) == (1201, 10, 1024)
    with pytest.raises(labkit.ContextOverflowError):
        stream_chat(model, [{"role": "user", "content": "word " * 1200}])
    assert C.llama_perf_context(model.ctx).n_p_eval == before


def test_a_prompt_that_just_fits_is_answered(tiny: Path) -> None:
    """n_prompt + max_tokens = n_ctx works, one more does not."""
    with load_model(tiny, n_ctx=256) as model:
        n_prompt = count_tokens(model, "x" * 200)
        assert generate_text(model, "x" * 200, 256 - n_prompt, temperature=1.0, seed=1) is not None
        with pytest.raises(labkit.ContextOverflowError):
            generate_text(model, "x" * 200, 257 - n_prompt)


def test_json_schema_gives_json_that_fits(model: labkit.Model) -> None:
    """A schema as dict or text: the answer parses and has the fields."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
        "required": ["city", "large"],
    }
    for given in (schema, json.dumps(schema)):
        answer = json.loads(generate_chat(model, MESSAGES, 80, temperature=0, json_schema=given))
        assert set(answer) == {"city", "large"}
        assert isinstance(answer["large"], bool)


def test_grammar_is_obeyed(model: labkit.Model) -> None:
    """A GBNF grammar, as text or as llama_cpp's object: the answer is one of its words."""
    grammar = 'root ::= "yes" | "no"'
    for given in (grammar, llama_cpp.LlamaGrammar.from_string(grammar)):
        assert generate_chat(model, MESSAGES, 10, temperature=1.0, grammar=given) in ("yes", "no")


def test_temperature_near_zero_is_greedy(model: labkit.Model) -> None:
    """A temperature that would overflow float32 chooses the most likely token."""
    assert generate_text(model, "1, 2,", 8, temperature=1e-30) == generate_text(model, "1, 2,", 8, temperature=0)


def test_repeat_penalty_counts_the_prompt_and_the_text(model: labkit.Model) -> None:
    """A very high penalty excludes all tokens of the prompt's end and of the text so far; no penalty excludes none."""
    prompt = "1, 2, 3, 4,"
    generate_text(model, prompt, 12, temperature=0)
    assert model.last_generation is not None
    free = model.last_generation.token_ids
    assert len(set(free)) < len(free)
    generate_text(model, prompt, 12, temperature=0, repeat_penalty=100.0)
    held = model.last_generation.token_ids
    assert len(set(held)) == len(held)
    assert not set(held) & set(model.tokenize(prompt.encode()))


@pytest.mark.parametrize("repetitions", [10, 36, 39])
def test_reused_prompt_gives_the_text_of_a_fresh_model(model: labkit.Model, repetitions: int) -> None:
    """Of two prompts' common prefix of any length, fewer than 64 tokens are computed again, and the text is identical."""
    common = "The quick brown fox jumps over the lazy dog. " * repetitions
    model.reset()
    generate_text(model, common + "A", 4, temperature=0)
    warm = generate_text(model, common + "B", 16, temperature=0)
    assert model.last_generation is not None
    assert count_tokens(model, common) - 64 < model.last_generation.n_reused <= count_tokens(model, common)
    model.reset()
    assert generate_text(model, common + "B", 16, temperature=0) == warm
    assert model.last_generation.n_reused == 0


def test_cancel_without_a_generation_does_nothing(model: labkit.Model) -> None:
    """cancel() without a running call returns False, and the next call is complete."""
    assert not model.cancel()
    generate_text(model, "1, 2,", 8, temperature=0)
    assert model.last_generation is not None
    assert model.last_generation.finish_reason in ("length", "end")


def test_stream_can_be_left_early(model: labkit.Model) -> None:
    """A stream that is closed ends its generation; the model is free at once."""
    with stream_text(model, "Once upon a time", None, temperature=1.0) as stream:
        assert next(stream).n_generated >= 1
    assert generate_text(model, "1, 2, 3, 4,", 4, temperature=0).startswith(" 5")


def test_streams_in_two_threads_do_not_mix(model: labkit.Model) -> None:
    """Two streams of one model, read alternately and in threads, give the same texts as alone."""
    prompts = ["1, 2, 3,", "a, b, c,"]
    alone = [generate_text(model, prompt, 8, temperature=0) for prompt in prompts]
    streams = [stream_text(model, prompt, 8, temperature=0) for prompt in prompts]
    pairs = ["", ""]
    for index in (0, 1, 0, 1, 0, 1, 0, 1):
        pairs[index] += next(streams[index]).text
    results = [pairs[index] + "".join(chunk.text for chunk in streams[index]) for index in (0, 1)]
    assert results == alone
    found: dict[int, str] = {}

    def read(index: int) -> None:
        found[index] = "".join(chunk.text for chunk in stream_text(model, prompts[index], 8, temperature=0))

    threads = [threading.Thread(target=read, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[0], found[1]] == alone


# -- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "Hello, world!", "naïve 你好 🦙", "<|im_end|>", " \n\n\t", "a" * 5000])
def test_count_tokens_equals_llama_s_tokenizer(model: labkit.Model, reference: llama_cpp.Llama, text: str) -> None:
    """Counts equal llama-cpp-python's for each combination of its flags."""
    for add_special in (False, True):
        for parse_special in (False, True):
            expected = len(reference.tokenize(text.encode(), add_bos=add_special, special=parse_special))
            assert count_tokens(model, text, add_special=add_special, parse_special=parse_special) == expected


def test_count_chat_tokens_is_what_generate_chat_costs(model: labkit.Model) -> None:
    """The count equals the prompt of generate_chat, and the tokens of the template rendered as a whole."""
    generate_chat(model, MESSAGES, 1)
    assert model.last_generation is not None
    assert count_chat_tokens(model, MESSAGES) == model.last_generation.n_prompt
    with model.vocabulary() as tokenizer:
        rendered = ChatTokenizer(tokenizer).template.render(MESSAGES)
        assert ChatTokenizer(tokenizer).encode(MESSAGES)[0] == tokenizer.tokenize(rendered, parse_special=True)


def test_parse_special_is_for_templates_by_hand(model: labkit.Model) -> None:
    """A prompt built by hand with parse_special=True gives what generate_chat gives; without, it stays text."""
    with model.vocabulary() as tokenizer:
        by_hand = ChatTokenizer(tokenizer).template.render(MESSAGES)
    assert generate_text(model, by_hand, 12, temperature=0, parse_special=True) == generate_chat(
        model, MESSAGES, 12, temperature=0
    )
    generate_text(model, by_hand, 1)
    assert model.last_generation is not None
    assert model.last_generation.n_prompt > count_chat_tokens(model, MESSAGES)


def test_tokens_can_be_counted_while_a_text_is_generated(model: labkit.Model) -> None:
    """Counting does not wait for a stream that is open."""
    with stream_text(model, "Once upon a time", None, temperature=1.0) as stream:
        next(stream)
        assert count_tokens(model, "Hello, world!") == 4
