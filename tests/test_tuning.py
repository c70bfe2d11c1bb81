"""Tuning: few measurements, the best settings, and load_model with them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.tuning.search import Grid, Point, Search, climb
from tests.tiny_models import write_tiny_model

ATTENTION = ((False, "f16", "f16"), (True, "f16", "f16"), (True, "q8_0", "q8_0"))
GRID = Grid((1, 2, 4, 8, 16), (64, 128, 256, 512), ATTENTION, (1,))


@st.composite
def machines(draw: st.DrawFn) -> tuple[object, object]:
    """Draw realistic machines: threads help up to a number, then hurt; batch sizes and attention types differ."""
    peak, peak_batch = draw(st.sampled_from(GRID.n_threads)), draw(st.sampled_from(GRID.n_threads))
    hurts = draw(st.floats(1.1, 3.0))
    attention = {kind: draw(st.floats(0.5, 2.0)) for kind in ATTENTION}
    best_batch, batch_step = draw(st.sampled_from(GRID.n_ubatch)), draw(st.floats(1.05, 1.5))

    def threads_s(count: int, best: int) -> float:
        return 1 / count if count <= best else hurts ** (GRID.n_threads.index(count) - GRID.n_threads.index(best)) / best

    def prompt_s(point: Point) -> float:
        away = abs(GRID.n_ubatch.index(point.n_ubatch) - GRID.n_ubatch.index(best_batch))
        return threads_s(point.n_threads_batch, peak_batch) * batch_step**away * attention[point.attention]

    def step_s(point: Point) -> float:
        return 0.01 * threads_s(point.n_threads, peak) * attention[point.attention]

    return prompt_s, step_s


@given(machines(), st.sampled_from(GRID.n_threads))
def test_search_finds_what_the_full_grid_finds(machine, n_threads) -> None:
    """On such machines the result is within 3 % of the best of all points, with less than a quarter of the runs."""
    prompt_s, step_s = machine
    runs: set[Point] = set()

    def counted(function):
        def measure(point: Point) -> float:
            runs.add(point)
            return function(point)

        return measure

    def cost(prompt: float, step: float, n_parallel: int) -> float:
        return prompt + 100 * step

    start = Point(n_threads, n_threads, 512, ATTENTION[0], 1)
    best = Search(GRID, start, counted(prompt_s), counted(step_s), cost).run()
    everything = [
        Point(threads, batch_threads, size, kind, 1)
        for threads, batch_threads, size, kind in itertools.product(GRID.n_threads, GRID.n_threads, GRID.n_ubatch, ATTENTION)
    ]
    assert len(everything) == GRID.n_points
    least = min(cost(prompt_s(point), step_s(point), 1) for point in everything)
    assert cost(prompt_s(best), step_s(best), 1) <= 1.03 * least
    assert len(runs) < GRID.n_points / 4


def test_climbing_stays_if_nothing_is_clearly_better() -> None:
    """A difference of 1 % is noise: load_model's default is kept."""
    assert climb((1, 2, 4, 8), 4, lambda n: 1.0 - 0.01 * (n == 8)) == 4


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """Measure only briefly: these tests make no claim about which settings are best."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labkit.tuning.session._SECONDS", 0.01)
        patch.setattr("labkit.tuning.session._ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tuning") / "tiny.gguf")


def test_tune_measures_real_settings() -> None:
    """Each setting that was tried has times, no setting is tried twice, and the best one's speed is among them."""
    found = labkit.tune(n_prompt=64, n_gen=8)
    tried = [dataclasses.astuple(item)[:7] for item in found.tried]
    assert len(set(tried)) == len(tried) == found.n_runs
    assert all(item.prompt_s or item.step_s for item in found.tried)
    assert found.n_runs < found.n_possible
    assert found.decode_tokens_per_second in [1 / item.step_s for item in found.tried if item.step_s]
    assert found.speedup >= 1
    assert set(found.reasons) >= {"n_threads", "n_threads_batch", "flash_attn", "n_ubatch"}


def test_load_model_accepts_tuned_settings(tiny: Path, tmp_path: Path) -> None:
    """Settings can be the record, its JSON file, or the goal; explicit arguments take precedence."""
    found = labkit.tune(tiny, n_prompt=64, n_gen=8)
    found.to_json(tmp_path / "settings.json")
    for settings in (found, tmp_path / "settings.json", str(tmp_path / "settings.json"), "latency", dict(found)):
        with labkit.load_model(tiny, n_ctx=256, settings=settings) as model:
            chosen = model.settings
            assert (chosen.n_threads, chosen.n_threads_batch) == (found.n_threads, found.n_threads_batch)
            assert (chosen.flash_attn, chosen.n_ubatch) == (found.flash_attn, min(found.n_ubatch, 256))
    with labkit.load_model(tiny, n_ctx=256, n_threads=3, settings=found, n_ubatch=32, flash_attn=True) as model:
        assert (model.settings.n_threads, model.settings.n_ubatch, model.settings.flash_attn) == (3, 32, True)


def test_load_model_rejects_other_settings(tmp_path: Path) -> None:
    """The error is one line that says what can be given."""
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    for given_settings, error, words in (
        ("throughput", ArgumentError, r"run labkit.tune\(.*goal='throughput'\) once"),
        ("fast", ArgumentError, "cannot be read"),
        (tmp_path / "none.json", ArgumentError, "cannot be read"),
        (tmp_path / "broken.json", ArgumentError, "is not JSON"),
        (7, ArgumentTypeError, "is not a result of labkit.tune"),
        ({"colour": "blue"}, ArgumentTypeError, "is not a result of labkit.tune"),
        ({"n_threads": -3}, ArgumentError, "n_threads"),
        ({"n_ubatch": "many"}, ArgumentTypeError, "n_ubatch"),
    ):
        with pytest.raises(error, match=words) as caught:
            labkit.load_model(n_ctx=256, settings=given_settings)
        assert "\n" not in str(caught.value)


def test_tune_rejects_wrong_arguments() -> None:
    """An unknown goal and lengths below 1 are errors."""
    with pytest.raises(ArgumentError, match="latency, throughput, memory"):
        labkit.tune(goal="speed")
    for name in ("n_prompt", "n_gen"):
        with pytest.raises(ArgumentError, match=name):
            labkit.tune(**{name: 0})


def test_memory_goal_needs_the_least_memory() -> None:
    """The goal "memory" never needs more memory than load_model's defaults."""
    lean = labkit.tune(goal="memory", n_prompt=64, n_gen=8)
    default = labkit.estimate_memory_usage(n_ctx=72, method="formula").total_bytes
    assert lean.memory_bytes <= default


def test_tune_can_be_interrupted() -> None:
    """An exception in the progress function ends the search."""

    class StopError(Exception):
        pass

    def stop(_done: int, _total: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        labkit.tune(n_prompt=64, n_gen=8, progress=stop)


@pytest.mark.parametrize(("architecture", "goal"), [("mamba", "latency"), ("gemma3", "throughput"), ("jamba", "throughput")])
def test_tune_works_on_states_and_windows(architecture: str, goal: str, tmp_path: Path) -> None:
    """Models with a recurrent state, which cannot be truncated, and with a window can be tuned too."""
    path = labkit.build_ghost_model(tmp_path / "ghost.gguf", architecture=architecture, shape="tiny")
    assert labkit.tune(path, goal=goal, n_prompt=32, n_gen=4).decode_tokens_per_second > 0


def test_command_prints_the_record(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`labkit tune --json` prints the record."""
    from labkit.cli import main

    assert main(["tune", str(tiny), "--n-prompt", "64", "--n-gen", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["goal"] == "latency"


def test_what_a_busy_machine_disturbed_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first measurement that another program slowed a hundredfold is no reason for or against a setting."""
    from labkit.tuning.timed_context import TrialContext

    calls = [0]

    def disturbed(_self: TrialContext, _job: Any, n_threads: int, _seconds: float) -> float:
        calls[0] += 1
        return 0.001 / min(n_threads, 2) * (100 if calls[0] == 1 else 1)  # this machine may be disturbed itself

    monkeypatch.setattr(TrialContext, "step_s", disturbed)
    found = labkit.tune(write_tiny_model(tmp_path / "tiny.gguf"), n_prompt=32, n_gen=8, progress=False)
    steps = [item.step_s for item in found.tried if item.step_s and item.n_threads in (1, 2)]
    assert max(steps) < 50 * min(steps)
