"""Statistics against independent calculations, and the structure of results; no claims about this machine's speed."""

from __future__ import annotations

import csv
import io
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit.benchmark.llama_bench import time_engine
from labkit.benchmark.memory import MemoryWatch
from labkit.benchmark.result import bench_csv
from labkit.benchmark.stats import median_interval
from labkit.cli import main
from labkit.plots import Picture
from tests.tiny_models import write_tiny_model

PROMPTS = ["Once upon a time there was a small boat, and", "Hello"]
NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    """Load the bundled model with one thread: two wait for each other, which is slow on a busy machine."""
    with labkit.load_model(n_ctx=256, n_threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("benchmark") / "tiny.gguf")


@pytest.fixture(scope="module")
def result(model: labkit.Model) -> labkit.BenchmarkResult:
    """Measure two prompts with three repeats."""
    return labkit.benchmark_inference(model, PROMPTS, max_tokens=6)


# -- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "low", "high", "confidence"), [(1, 1, 1, 0), (3, 1, 3, 0.75), (6, 1, 6, 0.96875), (10, 2, 9, 0.97852)]
)
def test_the_interval_of_a_median_has_its_confidence(n: int, low: int, high: int, confidence: float) -> None:
    """The ranks and their confidence equal those in tables of the binomial distribution."""
    interval = median_interval(list(range(n, 0, -1)))
    assert (interval.low, interval.high) == (low, high)
    assert interval.confidence == pytest.approx(confidence, abs=1e-5)


@given(st.integers(1, 60))
def test_the_interval_is_the_narrowest_possible(n: int) -> None:
    """The confidence follows from the binomial coefficients; the next narrower interval is below 95 %."""
    interval = median_interval(range(1, n + 1))
    k = int(interval.low)
    outside = 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
    assert interval.high == n + 1 - k
    assert interval.confidence == pytest.approx(max(0, 1 - outside), abs=1e-9)
    if n >= 6:
        assert interval.confidence >= 0.95
        assert 1 - outside - 2 * math.comb(n, k) / 2**n < 0.95


def test_an_interval_of_nothing_is_an_error() -> None:
    """An empty sample is an error in one line."""
    with pytest.raises(labkit.ArgumentError) as raised:
        median_interval([])
    assert "\n" not in str(raised.value)


# -- comparing ---------------------------------------------------------------------------------------------------------


def with_speeds(result: labkit.BenchmarkResult, *speeds: float) -> labkit.BenchmarkResult:
    """Return the same result with other speeds."""
    changed: labkit.BenchmarkResult = result.replace(
        samples=speeds, decode_samples=speeds, prompt_samples=speeds, tokens_per_second=sorted(speeds)[len(speeds) // 2]
    )
    return changed


@pytest.mark.parametrize(
    ("speeds", "verdict"),
    [
        ((120, 121, 119), "faster"),
        ((80, 81, 79), "slower"),
        ((101.5, 101.6, 101.4), "within noise"),  # no overlap, but a difference below 2 %
        ((90, 120, 110), "within noise"),  # the ranges overlap
        ((200,), "within noise"),  # one repeat
    ],
)
def test_compare_returns_faster_slower_or_within_noise(
    result: labkit.BenchmarkResult, speeds: tuple[float, ...], verdict: str
) -> None:
    """Only intervals that do not overlap, with medians more than 2 % apart, are a difference."""
    found = with_speeds(result, *speeds).compare(with_speeds(result, 99, 100, 101))
    assert found.verdict == verdict
    assert verdict in found.sentence.lower()
    assert not found.warnings
    assert found.ratio == pytest.approx(sorted(speeds)[len(speeds) // 2] / 100)


def test_compare_warns_if_settings_or_systems_differ(result: labkit.BenchmarkResult) -> None:
    """Differences are listed with both values; settings and system have one warning each."""
    other = result.replace(
        settings=result.settings.replace(n_threads=99, repeats=7),
        system=result.system.replace(cpu="another", ram_available_bytes=1),
    )
    found = result.compare(other)
    assert found.differing == (
        f"n_threads: {result.settings.n_threads} vs. 99",
        f"cpu: {result.system.cpu} vs. another",
    )
    assert ["settings" in warning or "system" in warning for warning in found.warnings] == [True, True]


def test_compare_accepts_a_result_read_from_a_file(result: labkit.BenchmarkResult, tmp_path: Path) -> None:
    """A result read from JSON compares like the one in memory."""
    result.to_json(tmp_path / "before.json")
    before = json.loads((tmp_path / "before.json").read_text(encoding="utf-8"))
    found = labkit.compare_benchmarks(result, before)
    assert (found.verdict, found.ratio, found.differing) == ("within noise", 1.0, ())


@pytest.mark.parametrize("other", [{}, {"tokens_per_second": 3}, 3, None, "fast"])
def test_compare_rejects_other_objects(result: labkit.BenchmarkResult, other: Any) -> None:
    """Anything but a result is an error in one line."""
    with pytest.raises((labkit.ArgumentError, labkit.ArgumentTypeError)) as raised:
        result.compare(other)
    assert "\n" not in str(raised.value)


# -- measuring -------------------------------------------------------------------------------------------------------


def test_counts_are_as_requested(result: labkit.BenchmarkResult) -> None:
    """There is one run per prompt and repeat, each with all its tokens, in ascending order of time."""
    assert [(run.repeat, run.prompt) for run in result.runs] == [(r, p) for r in range(3) for p in range(2)]
    assert all(run.n_generated == len(run.token_times_s) == 6 for run in result.runs)
    assert all(len(run.inter_token_latencies_s) == 5 for run in result.runs)
    assert all(list(run.token_times_s) == sorted(run.token_times_s) for run in result.runs)
    assert result.total_tokens == 36
    assert len(result.samples) == len(result.engine_prompt_samples) == len(result.engine_decode_samples) == 3
    assert result.settings.n_prompt == tuple(run.n_prompt for run in result.runs[:2])
    assert result.engine_test == (f"pp{max(result.settings.n_prompt)}", "tg6")


def test_times_are_consistent(result: Any) -> None:
    """Parts are not longer than their sums, and figures follow from the runs."""
    for run in result.runs:
        assert 0 < run.prefill_s <= run.time_to_first_token_s == run.token_times_s[0]
        assert run.time_to_first_token_s + run.decode_s <= run.elapsed_s
        assert run.engine_decode_s + run.sampler_s + run.text_s <= run.decode_s * 1.001
    assert result.elapsed_s == pytest.approx(sum(run.elapsed_s for run in result.runs))
    speeds = [12 / sum(run.elapsed_s for run in result.runs[i : i + 2]) for i in (0, 2, 4)]
    assert result.tokens_per_second == pytest.approx(sorted(speeds)[1])
    assert result.confidence_interval.low <= result.tokens_per_second <= result.confidence_interval.high
    assert result.confidence_interval.confidence == 0.75
    assert result.time_to_first_token_s <= result.time_to_first_token_p95_s < result.elapsed_s
    assert result.inter_token_latency_s <= result.inter_token_latency_p95_s
    assert result.tokens_per_second < result.decode_tokens_per_second
    assert 0 <= result.memory_delta_bytes <= result.memory_bytes


def test_the_gap_adds_up(result: labkit.BenchmarkResult) -> None:
    """Engine, depth, sampler, text and Python add up to the user's time per token; all but the depth are positive."""
    gap = result.gap
    assert gap is not None
    parts = [gap[f"{name}_s_per_token"] for name in ("engine", "depth", "sampler", "text", "python")]
    assert sum(parts) == pytest.approx(gap.user_s_per_token)
    assert min(parts[0], *parts[2:]) > 0


def test_every_token_is_generated_after_the_end_of_the_text(model: labkit.Model) -> None:
    """A prompt after which the model ends at once, with a stop sequence, still gives max_tokens."""
    prompt = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n"
    short = labkit.generate_text(model, prompt, 24, temperature=0, parse_special=True)
    assert labkit.count_tokens(model, short) < 24
    measured = labkit.benchmark_inference(
        model, prompt, max_tokens=24, repeats=1, warmup=0, engine=False, parse_special=True, stop=short[:1]
    )
    assert [run.n_generated for run in measured.runs] == [24]
    assert any("Stop" in note for note in measured.notes)


@pytest.mark.parametrize("options", [{"grammar": 'root ::= "a"'}, {"temperature": 0.8, "top_k": 5}, {"repeat_penalty": 1.2}])
def test_sampling_options_are_those_of_generate_text(model: labkit.Model, options: dict[str, Any]) -> None:
    """Sampling options are used and recorded, with a fixed seed, so that all repeats do the same work."""
    measured = labkit.benchmark_inference(model, "Hello", max_tokens=5, repeats=2, engine=False, warmup=0, **options)
    assert [run.n_generated for run in measured.runs] == [5, 5]
    assert measured.settings.seed == 0
    assert measured.settings.constrained == ("grammar" in options)
    for name in set(options) - {"grammar"}:
        assert measured.settings[name] == options[name]


def test_prompts_together_generate_every_token(model: labkit.Model) -> None:
    """With more prompts than n_parallel, each has all its tokens in ascending order of time; there is no gap."""
    prompts = ["Once upon a time", "The sea was", "<|im_end|>"]
    measured = labkit.benchmark_inference(model, prompts, max_tokens=5, repeats=2, n_parallel=2)
    assert [(run.prompt, run.n_generated) for run in measured.runs] == [(0, 5), (1, 5), (2, 5)] * 2
    assert all(list(run.token_times_s) == sorted(run.token_times_s) for run in measured.runs)
    assert measured.total_tokens == 30
    assert measured.gap is None
    assert measured.settings.n_parallel == 2
    assert measured.decode_tokens_per_second is not None
    assert all(run.elapsed_s <= measured.elapsed_s for run in measured.runs)
    assert any("together" in note for note in measured.notes)


def test_one_token_has_no_inter_token_latency(model: labkit.Model) -> None:
    """With max_tokens=1 the figures of generation alone are None, and the exports work without them."""
    measured = labkit.benchmark_inference(model, "Hello", max_tokens=1, repeats=1)
    assert (measured.decode_tokens_per_second, measured.inter_token_latency_s, measured.gap) == (None, None, None)
    assert measured.tokens_per_second > 0
    assert "pp" in measured.to_markdown()
    assert json.loads(measured.to_json())["total_tokens"] == 1
    with pytest.raises(labkit.ArgumentError, match="gives no latency between two tokens"):
        measured.plot()


def test_the_model_is_unchanged(model: labkit.Model) -> None:
    """Texts are the same before and after a benchmark."""
    before = labkit.generate_text(model, PROMPTS[0], 8, temperature=0)
    labkit.benchmark_inference(model, PROMPTS[1], max_tokens=4, repeats=1)
    assert labkit.generate_text(model, PROMPTS[0], 8, temperature=0) == before


def test_nothing_is_computed_if_a_prompt_does_not_fit(model: labkit.Model) -> None:
    """If the second prompt is too long, the error is raised before the first is computed."""
    done: list[int] = []
    with pytest.raises(labkit.ContextOverflowError) as raised:
        labkit.benchmark_inference(model, ["Hello", "word " * 300], progress=lambda *_: done.append(1))
    assert raised.value.n_ctx == 256
    assert not done


@pytest.mark.parametrize(
    ("prompts", "options"),
    [
        ([], {}),
        (3, {}),
        (b"bytes", {}),
        (["Hello", 3], {}),
        ("Hello", {"max_tokens": 0}),
        ("Hello", {"max_tokens": None}),
        ("Hello", {"repeats": 0}),
        ("Hello", {"warmup": -1}),
        ("Hello", {"n_parallel": 0}),
        ("Hello", {"engine": "yes"}),
        ("Hello", {"temperature": math.nan}),
        ("Hello", {"speed": 3}),
        ("Hello", {"seed": -1}),
        ("Hello", {"stop": 3}),
    ],
)
def test_wrong_arguments_are_an_error_in_one_line(model: labkit.Model, prompts: Any, options: dict[str, Any]) -> None:
    """Wrong arguments are errors in one line."""
    with pytest.raises((labkit.ArgumentError, labkit.ArgumentTypeError)) as raised:
        labkit.benchmark_inference(model, prompts, **options)
    assert "\n" not in str(raised.value)


def test_a_closed_model_is_an_error() -> None:
    """A closed model and an object that is not a model are errors."""
    with labkit.load_model(n_ctx=256) as closed:
        pass
    with pytest.raises(labkit.ModelClosedError):
        labkit.benchmark_inference(closed, "Hello")
    with pytest.raises(labkit.ArgumentTypeError, match="load_model"):
        labkit.benchmark_inference("model.gguf", "Hello")  # type: ignore[arg-type]


def test_cancelling_ends_it_and_leaves_the_model_usable(model: labkit.Model) -> None:
    """`model.cancel()` from another thread ends user runs and engine runs."""
    started = threading.Event()

    def cancel() -> None:
        started.wait(60)
        while not model.cancel():
            time.sleep(0.001)

    for run in (
        lambda: labkit.benchmark_inference(model, "Hello", max_tokens=200, repeats=100, progress=lambda *_: started.set()),
        lambda: [started.set() or time_engine(model, 200, 200) for _ in range(100)],  # type: ignore[func-returns-value]
    ):
        started.clear()
        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(labkit.GenerationError, match="cancelled"):
            run()
        thread.join()
    assert labkit.generate_text(model, "1, 2, 3, 4,", 6, temperature=0) == " 5, 6,"


def test_progress_reaches_its_total(model: labkit.Model) -> None:
    """Each run and each engine test is one step."""
    steps: list[tuple[int, int]] = []
    labkit.benchmark_inference(model, PROMPTS, max_tokens=2, repeats=2, warmup=1, progress=lambda *step: steps.append(step))
    assert steps == [(done, 9) for done in range(1, 10)]


def test_clock_and_counters_agree(model: labkit.Model) -> None:
    """The time by llama.cpp's counters is most of the wall time, and not more."""
    for _ in range(3):  # again if another program ran between two steps
        times = time_engine(model, 100, 8)
        assert (times.n_prompt, times.n_gen) == (100, 8)
        assert times.counted_prompt_s <= times.prompt_s + 1e-4
        assert times.counted_decode_s <= times.decode_s + 1e-4
        share = min(times.counted_prompt_s / times.prompt_s, times.counted_decode_s / times.decode_s)
        if share > 0.5:
            break
    assert share > 0.5


def test_a_model_without_counters_has_no_gap(tmp_path: Path) -> None:
    """no_perf=True disables llama.cpp's counters; all other figures exist."""
    with labkit.load_model(write_tiny_model(tmp_path / "tiny.gguf"), n_ctx=256, n_threads=1, no_perf=True) as tiny:
        measured = labkit.benchmark_inference(tiny, "a", max_tokens=4, repeats=2)
    assert measured.gap is None
    assert measured.runs[0].engine_decode_s is None
    assert measured.engine_decode_tokens_per_second is not None


@pytest.mark.parametrize("counts", [True, False], ids=["as here", "sampled"])
def test_peak_memory_includes_freed_blocks(counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that is freed before the end counts in the peak, with the kernel's mark and by sampling."""
    if not counts:
        monkeypatch.setattr("labkit.benchmark.memory.reset_peak_resident", lambda: False)
    with MemoryWatch() as memory:
        block = np.ones(64 * 2**20, dtype=np.uint8)
        until = time.monotonic() + 30
        while (
            not memory._kernel_counts and memory.peak_bytes - memory.before_bytes < 48 * 2**20 and time.monotonic() < until
        ):
            time.sleep(0.01)  # a busy machine takes its samples late
        del block
    assert memory.peak_bytes - memory.before_bytes > 48 * 2**20


# -- exports -------------------------------------------------------------------------------------------------------------


def test_exports_parse_back(result: labkit.BenchmarkResult, tmp_path: Path) -> None:
    """JSON has all fields, CSV one row per run; both can be written to a file."""
    document = json.loads(result.to_json(tmp_path / "result.json"))
    assert document == json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert set(document) == set(result)
    assert document["runs"][0]["token_times_s"] == list(result.runs[0].token_times_s)
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert len(rows) == len(result.runs)
    assert float(rows[3]["elapsed_s"]) == result.runs[3].elapsed_s
    with pytest.raises(labkit.ArgumentError, match="cannot be written"):
        result.to_csv(tmp_path / "no such folder" / "result.csv")


def test_the_tables_are_like_llama_benchs(result: labkit.BenchmarkResult) -> None:
    """Markdown has llama-bench's columns, the CSV of tests its names; engine and user tests are marked."""
    lines = result.to_markdown().splitlines()
    assert lines[0] == "| model | size | params | backend | threads | test | t/s |"
    assert [line.split(" | ")[5] for line in lines[2:6]] == [result.engine_test[0], "tg6", "pp6, user", "tg6, user"]
    rows = list(csv.DictReader(io.StringIO(bench_csv(result))))
    assert [(row["figure"], row["n_gen"]) for row in rows] == [
        ("engine", "0"),
        ("engine", "6"),
        ("user", "0"),
        ("user", "6"),
    ]
    assert {"model_type", "model_size", "model_n_params", "n_threads", "avg_ts", "stddev_ts"} <= set(rows[0])
    assert "134.52 M" in repr(result)
    assert result._repr_html_().count("<tr>") > 8


def test_plot_has_units_and_alt_text(result: labkit.BenchmarkResult) -> None:
    """There is one point per token after the first; the axes have units, the picture alt text."""
    axes = result.plot()
    assert axes.get_xlabel().endswith("(tokens)")
    assert axes.get_ylabel().endswith("(ms)")
    assert list(axes.lines[0].get_xdata()) == [2, 3, 4, 5, 6]
    assert "llama.cpp only (tg6)" in Picture(axes).text
    assert result.plot(axes=axes) is axes


# -- the command -----------------------------------------------------------------------------------------------------------


def test_bench_prints_tables_and_json(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    """The prompt has the requested length, and the tests have llama-bench's names."""
    assert main(["bench", str(tiny), "-p", "24", "-n", "4", "-r", "2", "-t", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(test["figure"], test["test"]) for test in document["tests"]] == [
        ("engine", "pp24"), ("engine", "tg4"), ("user", "pp24"), ("user", "tg4"),
    ]  # fmt: skip
    assert document["settings"]["n_prompt"] == [24]
    assert [document["predicted"][key] for key in ("n_prompt", "n_threads", "depth")] == [24, 1, 2]
    assert main(["bench", str(tiny), "-p", "24", "-n", "4", "-r", "1", "-t", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(
        word in printed for word in ("t/s", "pp24", "tg4", "predicted", "limited by", "throughput", "time to first token")
    )
    assert main(["bench", str(tiny), "-p", "24", "-n", "4", "-r", "1", "-t", "1", "--no-predict"]) == 0
    assert "predicted" not in capsys.readouterr().out


def test_bench_prints_csv_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    """Both formats are the only output."""
    assert main(["bench", "-p", "8", "-n", "2", "-r", "1", "-t", "1", "--csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 4
    assert main(["bench", "-p", "8", "-n", "2", "-r", "1", "-t", "1", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| model |")


@pytest.mark.parametrize("arguments", [("-p", "0"), ("-n", "0"), ("-r", "0"), ("no-such-model.gguf",)])
def test_bench_fails_in_one_line(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """An error is one line on stderr."""
    assert main(["bench", *arguments]) == 1
    assert capsys.readouterr().err.count("\n") == 1
