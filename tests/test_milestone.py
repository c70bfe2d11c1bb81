"""The milestone: measurements, verdict, advice and the card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import labkit
from labkit.errors import ArgumentError, ModelLoadError, ModelNotFoundError
from labkit.milestone import MilestoneFigure, run
from labkit.milestone.advice import advise, verdict_of


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """Time kernels only briefly: these tests make no claim about their speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labkit.roofline.kernels._SECONDS", 0.002)
        patch.setattr("labkit.roofline.predict._BEYOND_CACHES", 2**20)
        patch.setattr("labkit.milestone.run._MORE", (16,))
        yield


@pytest.fixture(scope="module")
def result() -> labkit.MilestoneResult:
    return labkit.run_milestone(labkit.bundled_model_path(), max_tokens=4, target=0.001, n_threads=1)


def test_a_small_model_does_not_count(result: labkit.MilestoneResult) -> None:
    """A small model never counts, even a fast one: the milestone needs 7 billion quantized weights."""
    assert result.one_stream.passes
    assert result.together.passes
    assert not result.counts
    assert not result.passes
    assert "7 billion" in result.verdict
    assert not result.is_synthetic


def test_both_figures_are_measured_and_predicted(result: labkit.MilestoneResult) -> None:
    """One stream and ten prompts together each have a measurement, a prediction and a roofline."""
    assert len(labkit.LAB_PROMPTS) == result.together.n_parallel == 10
    assert result.one_stream.n_parallel == 1
    for _, figure in result.figures():
        assert figure.tokens_per_second > 0 < figure.predicted_tokens_per_second
        assert figure.roofline_tokens_per_second > 0
        assert figure.tokens_per_second <= figure.decode_tokens_per_second * 1.5


def test_the_card_has_three_formats(result: labkit.MilestoneResult, tmp_path: Path) -> None:
    """The card is text, JSON or a picture with alt text."""
    card = result.to_text()
    assert "one stream" in card
    assert "10 prompts together" in card
    assert max(map(len, card.splitlines()[5:8])) <= 65  # a narrow notebook shows a row in one line
    assert f"{result.one_stream.tokens_per_second:.1f}" in card
    result.to_json(tmp_path / "card.json")
    assert json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))["quantization"] == "Q4_1"
    assert result.to_png(tmp_path / "card.png").stat().st_size > 10_000
    assert "tokens/s measured" in str(result.plot().get_label())


def test_a_ghost_is_called_synthetic(tmp_path: Path) -> None:
    """A ghost model is labelled as synthetic, on the card too; one that is too slow gets advice for more prompts."""
    path = labkit.build_ghost_model(tmp_path / "ghost.gguf", shape="tiny")
    result = labkit.run_milestone(path, max_tokens=2, target=1e6)
    assert "prompts together" in result.advice[-1]
    assert result.is_synthetic
    assert "synthetic" in result.to_text()


def _figure(n_parallel: int, speed: float, *, passes: bool) -> MilestoneFigure:
    return MilestoneFigure(n_parallel, speed, speed, speed, 2 * speed, "bandwidth", passes)


def test_the_verdict_states_the_result() -> None:
    """The verdict says whether one stream, ten together, or neither passes, with the speeds."""
    assert "a single stream reaches 12.0" in verdict_of(
        _figure(1, 12, passes=True), _figure(10, 30, passes=True), 10, counts=True
    )
    both = verdict_of(_figure(1, 4, passes=False), _figure(10, 14, passes=True), 10, counts=True)
    assert "10 prompts together reach 14.0" in both
    assert "one stream reaches 4.0, limited by bandwidth" in both
    neither = verdict_of(_figure(1, 2, passes=False), _figure(10, 6, passes=False), 10, counts=True)
    assert "the target is 10" in neither


def test_advice_follows_from_the_figures() -> None:
    """If the roofline is too low, advice names a file size; for more prompts, a prediction."""
    one = labkit.predict_speed(n_prompt=8)
    slow = one.replace(bytes_per_pass=4e9, read_bytes_per_second=20e9, roofline_tokens_per_second=5.0)
    more = {10: one.replace(decode_tokens_per_second=9.0), 16: one.replace(decode_tokens_per_second=15.0)}
    found = advise(10, (_figure(1, 3, passes=False), _figure(10, 8, passes=False)), slow, more)
    assert "no setting can reach the target here; a file of 2.0 GB or less could" in found[0]
    assert "16 prompts together should reach 15.0 tokens/s" in found[1]  # as predicted: ten ran as predicted
    none = advise(100, (_figure(1, 3, passes=False), _figure(10, 8, passes=False)), slow, more)
    assert "use more cores, or fewer weights" in none[1]


def test_a_model_that_does_not_fit_is_rejected_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says how much RAM it needs."""
    big = labkit.estimate_memory_usage(method="formula").replace(fits=False)
    monkeypatch.setattr(run, "estimate_memory_usage", lambda *_args, **_kwargs: big)
    with pytest.raises(ModelLoadError, match="of RAM, more than is free"):
        labkit.run_milestone(labkit.bundled_model_path())


def test_wrong_arguments_raise() -> None:
    """A target of 0, a single token and a missing file are errors."""
    for kwargs in ({"target": 0}, {"max_tokens": 1}):
        with pytest.raises(ArgumentError):
            labkit.run_milestone(labkit.bundled_model_path(), **kwargs)
    with pytest.raises(ModelNotFoundError):
        labkit.run_milestone("no-such-model.gguf")


def test_command_shows_the_card(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`labkit milestone --model FILE` prints text or JSON."""
    from labkit.cli import main

    path = labkit.build_ghost_model(tmp_path / "ghost.gguf", shape="tiny")
    assert main(["milestone", "--model", str(path), "-n", "2", "--png", str(tmp_path / "card.png")]) == 0
    assert "prompts together" in capsys.readouterr().out
    assert (tmp_path / "card.png").is_file()
    assert main(["milestone", "--model", str(path), "-n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_synthetic"] is True
