"""Perplexity, divergence and the comparison of types, against independent computations over raw logits."""

from __future__ import annotations

import csv
import io
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
from llama_cpp import Llama

import labkit
from labkit.quality import scoring
from labkit.quality.logits import divergence, log_softmax, surprise
from labkit.quality.windows import cut_windows
from tests.tiny_models import write_tiny_model

PROSE = labkit.evaluation_text()[:2600]


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    """Load the bundled model."""
    with labkit.load_model(n_ctx=256) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a copy of the bundled model in 16-bit floats."""
    target = tmp_path_factory.mktemp("quality") / "SmolLM2-F16.gguf"
    with pytest.warns(labkit.LabkitWarning, match="already quantized"):
        labkit.quantize_model(labkit.bundled_model_path(), target, "F16")
    return target


def raw_logits(llama: Llama, tokens: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return all rows of logits from llama-cpp-python's own loop."""
    llama.reset()
    llama.eval(tokens)
    return np.array(llama.scores[: len(tokens)], dtype=np.float64)


def independent_perplexity(path: Path, text: str, n_ctx: int, *, add_bos: bool | None = None) -> float:
    """Compute llama-perplexity's method independently: whole windows, second half scored, in double precision."""
    llama = Llama(str(path), n_ctx=n_ctx, n_threads=1, logits_all=True, verbose=False)
    tokens = llama.tokenize(text.encode(), add_bos=True, special=False)
    starts_with_bos = bool(llama._model.add_bos_token()) if add_bos is None else add_bos
    total, count = 0.0, 0
    for chunk in range(len(tokens) // n_ctx):
        window = tokens[chunk * n_ctx : (chunk + 1) * n_ctx]
        shown = [llama.token_bos(), *window[1:]] if starts_with_bos else window
        logits = raw_logits(llama, shown)
        for position in range(n_ctx // 2, n_ctx - 1):
            row = logits[position]
            total -= row[window[position + 1]] - row.max() - math.log(np.exp(row - row.max()).sum())
            count += 1
    llama.close()
    return math.exp(total / count)


@given(
    st.lists(st.integers(0, 1000), min_size=16, max_size=200),
    st.integers(8, 40),
    st.one_of(st.none(), st.integers(1, 39)),
    st.one_of(st.none(), st.just(-1)),
)
def test_windows_equal_llama_perplexity(tokens: list[int], n_ctx: int, stride: int | None, bos: int | None) -> None:
    """The scored positions and their context are those of perplexity.cpp's loops."""
    if len(tokens) < 2 * n_ctx or (stride is not None and stride >= n_ctx):
        return
    expected = []
    if stride is None:
        for chunk in range(len(tokens) // n_ctx):
            start = chunk * n_ctx
            for position in range(n_ctx // 2, n_ctx - 1):
                before = tokens[start : start + position + 1]
                expected.append(([bos, *before[1:]] if bos is not None else before, tokens[start + position + 1]))
    else:
        for chunk in range((len(tokens) - n_ctx + stride - 1) // stride):
            start = chunk * stride
            for position in range(n_ctx - stride - 1, n_ctx - 1):
                expected.append((tokens[start : start + position + 1], tokens[start + position + 1]))
    found = []
    for window in cut_windows(tokens, n_ctx, stride, bos):
        first = len(window.tokens) - len(window.targets)
        found += [(window.tokens[: first + index + 1].tolist(), int(target)) for index, target in enumerate(window.targets)]
    assert found == expected


@given(st.integers(1, 40), st.integers(2, 300), st.integers(0, 2**32 - 1))
def test_surprise_and_divergence_equal_the_definitions(n_rows: int, n_vocab: int, seed: int) -> None:
    """The blockwise computation in single precision equals the definition in double precision, to six digits."""
    rng = np.random.default_rng(seed)
    logits, base = (rng.normal(0, 8, (n_rows, n_vocab)).astype(np.float32) for _ in range(2))
    targets = rng.integers(0, n_vocab, n_rows)

    def plain(rows: Any) -> Any:
        wide = rows.astype(np.float64)
        return (
            wide
            - np.log(np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
            - wide.max(axis=1, keepdims=True)
        )

    log_p, log_q = plain(base), plain(logits)
    np.testing.assert_allclose(surprise(logits, targets), -log_q[np.arange(n_rows), targets], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_softmax(logits), log_q, rtol=1e-5, atol=1e-5)
    gap = divergence(log_softmax(base), logits, targets)
    np.testing.assert_allclose(gap.kl, (np.exp(log_p) * (log_p - log_q)).sum(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(gap.same_top, log_p.argmax(axis=1) == log_q.argmax(axis=1))
    picked = np.arange(n_rows), targets
    np.testing.assert_allclose(gap.delta_p, np.exp(log_q[picked]) - np.exp(log_p[picked]), atol=1e-5)


def test_tokens_of_probability_zero_add_no_divergence() -> None:
    """A token of probability zero adds 0, not NaN."""
    base = np.array([[0.0, -np.inf]], dtype=np.float32)
    gap = divergence(base, np.array([[0.0, 0.0]], dtype=np.float32), np.array([0]))
    assert gap.kl == pytest.approx(math.log(2))


@pytest.mark.parametrize("n_ctx", [64, 256])
def test_perplexity_equals_llama_perplexity(model: labkit.Model, n_ctx: int) -> None:
    """It is within 0.1 % of an independent computation over raw logits."""
    text = PROSE[: 12 * n_ctx]  # about three windows
    found = labkit.measure_perplexity(model, text, n_ctx=n_ctx)
    assert found.perplexity == pytest.approx(independent_perplexity(Path(model.model_path), text, n_ctx), rel=1e-3)
    assert found.running[-1] == pytest.approx(found.perplexity)
    assert len(found.running) == found.n_windows
    assert found.n_scored == found.n_windows * (n_ctx - n_ctx // 2 - 1)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("add_bos", [True, False])
def test_windows_begin_with_the_models_begin_token(tmp_path: Path, kind: str, add_bos: bool) -> None:
    """A model's begin token replaces the first token of each window."""
    path = write_tiny_model(tmp_path / "tiny.gguf", tokenizer=kind, keys={"tokenizer.ggml.add_bos_token": add_bos})
    text = "a small text of no great meaning, told again and again. " * 4
    with labkit.load_model(path) as model:
        found = labkit.measure_perplexity(model, text, n_ctx=32)
    assert found.perplexity == pytest.approx(independent_perplexity(path, text, 32, add_bos=add_bos), rel=1e-3)


def test_slices_of_logits_give_the_same_figure(model: labkit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small slices of logits, as for a huge vocabulary, give the same figure."""
    whole = labkit.measure_perplexity(model, PROSE, n_ctx=128)
    monkeypatch.setattr(scoring, "_SLICE_BYTES", 5 * 4 * model.n_vocab())
    assert labkit.measure_perplexity(model, PROSE, n_ctx=128).perplexity == pytest.approx(whole.perplexity, rel=1e-4)


def test_stride_lowers_the_perplexity(model: labkit.Model) -> None:
    """Tokens with more context are predicted better."""
    strided = labkit.measure_perplexity(model, PROSE, n_ctx=128, stride=32)
    assert strided.n_scored == strided.n_windows * 32
    assert strided.perplexity < labkit.measure_perplexity(model, PROSE, n_ctx=64).perplexity


def test_measuring_does_not_change_the_model(model: labkit.Model) -> None:
    """The next answer is the same as before, and the prompt is still cached."""
    prompt = "Once upon a time there was a clock that " * 20
    before = labkit.generate_text(model, prompt, max_tokens=8, temperature=0)
    labkit.measure_perplexity(model, PROSE, n_ctx=64)
    assert labkit.generate_text(model, prompt, max_tokens=8, temperature=0) == before
    assert model.last_generation is not None


def test_progress_counts_windows(model: labkit.Model) -> None:
    """The function is called for every window, up to the total."""
    seen: list[tuple[int, int]] = []
    found = labkit.measure_perplexity(model, PROSE, n_ctx=128, progress=lambda *now: seen.append(now))
    assert seen == [(index + 1, found.n_windows) for index in range(found.n_windows)]


def test_cancel_ends_a_measurement_and_leaves_the_model_usable(model: labkit.Model) -> None:
    """model.cancel() from another thread stops it within a second."""
    begun = threading.Event()
    errors: list[Exception] = []

    def measure() -> None:
        try:
            labkit.measure_perplexity(model, n_ctx=512, progress=lambda *_: begun.set())
        except labkit.GenerationError as error:
            errors.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    assert begun.wait(60)
    started = time.monotonic()
    model.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - started < 2
    assert "cancelled" in str(errors[0])
    assert labkit.generate_text(model, "1, 2, 3, 4,", max_tokens=6, temperature=0) == " 5, 6,"


def test_an_error_in_progress_reaches_the_caller(model: labkit.Model) -> None:
    """An error in a progress function stops the measurement, and the model stays usable."""

    def fail(done: int, total: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        labkit.measure_perplexity(model, PROSE, n_ctx=64, progress=fail)
    assert labkit.generate_text(model, "1, 2, 3, 4,", max_tokens=3, temperature=0)


@pytest.mark.parametrize(
    ("text", "options", "needed"),
    [
        ("too short", {}, "give a longer text"),
        ("short, but not quite so short that nothing would do, if only the window were a little smaller", {}, "or n_ctx=8"),
        (PROSE, {"n_ctx": 4}, "n_ctx=4 is out of range"),
        (PROSE, {"n_ctx": 10**6}, "give a longer text"),
        (PROSE, {"n_ctx": "many"}, "n_ctx must be an integer"),
        (PROSE, {"n_ctx": 64, "stride": 64}, "stride=64 is out of range"),
        (PROSE, {"n_ctx": 64, "stride": 0}, "stride=0 is out of range"),
        (PROSE, {"n_ctx": 64, "progress": "yes"}, "progress must be a function"),
        (b"bytes", {}, "text must be the text itself"),
        (Path("a.txt"), {}, "text must be the text itself"),
    ],
)
def test_wrong_arguments_are_one_line_errors(model: labkit.Model, text: Any, options: dict[str, Any], needed: str) -> None:
    """Each error says what was given and what is needed."""
    with pytest.raises(labkit.LabkitError, match=needed) as caught:
        labkit.measure_perplexity(model, text, **options)
    assert "\n" not in str(caught.value)


def test_a_closed_model_and_no_model_are_refused() -> None:
    """Both are one-line errors."""
    closed = labkit.load_model(n_ctx=256)
    closed.close()
    with pytest.raises(labkit.ModelClosedError):
        labkit.measure_perplexity(closed, PROSE)
    with pytest.raises(labkit.ArgumentTypeError, match=r"load_model"):
        labkit.measure_perplexity("model.gguf", PROSE)  # type: ignore[arg-type]


def test_divergence_from_itself_is_zero(model: labkit.Model) -> None:
    """A model compared with itself has no divergence and full agreement."""
    found = labkit.measure_divergence(model, model, PROSE, n_ctx=128)
    assert abs(found.kl_divergence) < 1e-6
    assert found.top_token_agreement == 1
    assert found.delta_p_rms < 1e-6
    assert found.perplexity == pytest.approx(labkit.measure_perplexity(model, PROSE, n_ctx=128).perplexity)


def test_divergence_equals_the_definition_over_raw_logits(f16: Path, tmp_path: Path) -> None:
    """Mean divergence, agreement and change of probability equal an independent computation in double precision."""
    small = labkit.quantize_model(f16, tmp_path / "q4.gguf", "Q4_0").target
    text, n_ctx = PROSE[:1800], 64
    with labkit.load_model(f16, n_ctx=256) as reference, labkit.load_model(small, n_ctx=256) as model:
        found = labkit.measure_divergence(model, reference, text, n_ctx=n_ctx)
    llamas = [Llama(str(path), n_ctx=n_ctx, n_threads=1, logits_all=True, verbose=False) for path in (f16, small)]
    tokens = llamas[0].tokenize(text.encode(), add_bos=True, special=False)
    kl, same, delta = [], [], []
    for start in range(0, len(tokens) // n_ctx * n_ctx, n_ctx):
        window = tokens[start : start + n_ctx]
        log_p, log_q = (
            rows
            - rows.max(axis=1, keepdims=True)
            - np.log(np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1))[:, None]
            for rows in (raw_logits(llama, window) for llama in llamas)
        )
        for at in range(n_ctx // 2, n_ctx - 1):
            kl.append((np.exp(log_p[at]) * (log_p[at] - log_q[at])).sum())
            same.append(log_p[at].argmax() == log_q[at].argmax())
            delta.append(np.exp(log_q[at][window[at + 1]]) - np.exp(log_p[at][window[at + 1]]))
    for llama in llamas:
        llama.close()
    assert found.kl_divergence == pytest.approx(np.mean(kl), rel=0.01)
    assert found.kl_p99 == pytest.approx(np.quantile(kl, 0.99), rel=0.02)
    assert found.top_token_agreement == pytest.approx(np.mean(same), abs=0.02)
    assert found.delta_p_rms == pytest.approx(np.sqrt(np.mean(np.square(delta))), rel=0.02)


def test_models_of_different_vocabularies_are_refused(model: labkit.Model, tmp_path: Path) -> None:
    """Models with different vocabularies are refused: their predictions are for different tokens."""
    with (
        labkit.load_model(write_tiny_model(tmp_path / "tiny.gguf")) as other,
        pytest.raises(labkit.ArgumentError, match="do not share a vocabulary"),
    ):
        labkit.measure_divergence(other, model, PROSE, n_ctx=64)


def test_comparison_measures_the_quality_loss(f16: Path, tmp_path: Path) -> None:
    """Fewer bits give smaller files and larger divergence; files are kept if a folder is given."""
    seen: list[tuple[int, int]] = []
    table = labkit.compare_quantizations(
        f16, ["F16", "q8_0", "Q4_0", "Q2_K"], PROSE, n_ctx=128, folder=tmp_path, progress=lambda *now: seen.append(now)
    )
    assert [row.quantization for row in table.rows] == ["F16", "Q8_0", "Q4_0", "Q2_K"]
    losses = [row.kl_divergence for row in table.rows]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses[1] < 0.02 < losses[3]
    assert table.row("Q8_0").top_token_agreement > table.row("Q2_K").top_token_agreement
    assert table.row("Q8_0").decode_ratio > 0
    assert table.row("f16").decode_ratio == 1
    assert table.reference == "F16 (the source)"
    assert table.notes == ()
    assert seen[-1] == (seen[-1][1],) * 2
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    for row in table.rows:
        assert row.path is not None
        info = labkit.get_model_info(row.path)
        assert (row.file_size_bytes, row.bits_per_weight) == (info.file_size_bytes, info.bits_per_weight)
        assert info.quantization == row.quantization
    with labkit.load_model(tmp_path / "SmolLM2-F16-Q4_0.gguf", n_ctx=256) as model:
        assert labkit.measure_perplexity(model, PROSE, n_ctx=128).perplexity == pytest.approx(
            table.row("Q4_0").perplexity, rel=1e-3
        )
    assert repr(table).count("\n") == 5
    assert table.to_markdown().count("\n") == 5
    assert "<table>" in table._repr_html_()
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert float(rows[1]["kl_divergence"]) == table.row("Q8_0").kl_divergence


def test_types_are_compared_in_a_table(tmp_path: Path) -> None:
    """Size, bits, perplexity, divergence and speed of each type, on a small model with random weights."""
    source = labkit.build_ghost_model(tmp_path / "ghost.gguf", shape="tiny", quantization="F16")
    table = labkit.compare_quantizations(source, ["F16", "Q8_0", "Q4_0"], PROSE[:600], n_ctx=64)
    assert [row.quantization for row in table.rows] == ["F16", "Q8_0", "Q4_0"]
    assert [row.file_size_bytes for row in table.rows] == sorted((row.file_size_bytes for row in table.rows), reverse=True)
    losses = [row.kl_divergence for row in table.rows]
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses == sorted(losses)
    assert all(row.perplexity > 1 and row.decode_ratio > 0 for row in table.rows)


def test_comparison_of_a_quantized_source_has_a_note(tmp_path: Path) -> None:
    """The reference is an F16 copy, and no file is left."""
    table = labkit.compare_quantizations(None, ["Q4_1"], PROSE, n_ctx=64)
    assert table.reference == "an F16 copy of the source"
    assert "already quantized" in table.notes[0]
    assert table.rows[0].path is None
    with pytest.raises(labkit.ArgumentError, match="there are Q4_1"):
        table.row("Q8_0")


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ({"quantizations": "Q4_0"}, "list of file types"),
        ({"quantizations": []}, "empty"),
        ({"quantizations": ["Q9_9"]}, "Q9_9"),
        ({"text": "too short"}, "give a longer text"),
        ({"source": "no/such/model.gguf"}, "no/such/model.gguf"),
        ({"folder": "no/such/folder", "text": PROSE, "n_ctx": 64}, "folder .* does not exist"),
    ],
)
def test_comparison_refuses_before_it_makes_anything(arguments: dict[str, Any], needed: str) -> None:
    """Wrong arguments are refused at once, and no file is left."""
    with pytest.raises(labkit.LabkitError, match=needed):
        labkit.compare_quantizations(**{"quantizations": ["Q4_0"], **arguments})
