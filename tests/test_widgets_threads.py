"""The threads explorer's predictions, and its run next to a busy core, without a browser."""

import contextlib
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import labkit
from labkit.tuning.threads import ThreadScaling, ThreadSpeed
from labkit.widgets import threads
from labkit.widgets.parts.busy_core import BusyCore, Expected, describe_busy, view_busy
from labkit.widgets.threads import DecodeTime, ThreadsExplorer, describe


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    with labkit.load_model(n_ctx=256) as loaded:
        yield loaded


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict without timing, and keep a core busy for half a second."""
    parts = (SimpleNamespace(predicted_s=0.016, limit="compute"), SimpleNamespace(predicted_s=0.002, limit="overhead"))
    monkeypatch.setattr(threads, "predict_speed", lambda *_, **__: SimpleNamespace(parts=parts, bytes_per_pass=1e8))
    monkeypatch.setattr(threads, "measure_read_bandwidth", lambda *_, **__: 1e11)
    monkeypatch.setattr(ThreadsExplorer, "around_s", 0.3)
    monkeypatch.setattr(ThreadsExplorer, "busy_s", 0.6)


def wait_until(is_so: Any, limit_s: float = 60.0) -> None:
    ends_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < ends_s
        time.sleep(0.005)


def busy_processes() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it is about to end
            if "os.write(1, b" in " ".join(child.cmdline()):
                found.append(child)
    return found


# -- prediction --------------------------------------------------------------------------------------------------------


def test_threads_share_all_but_the_small_operations() -> None:
    """Twice the threads halve the matrices' time, not below that of reading, and no more than there are cores."""
    predicted = DecodeTime(shared_s=0.08, alone_s=0.01, reading_s=0.015, n_cores=8)
    assert predicted.tokens_per_second(1) == pytest.approx(1 / 0.09)
    assert predicted.tokens_per_second(4) == pytest.approx(1 / 0.03)
    assert predicted.tokens_per_second(8) == pytest.approx(1 / 0.025)
    assert predicted.tokens_per_second(12) == predicted.tokens_per_second(8)


@pytest.mark.parametrize(("cores", "n_threads", "busy"), [(8, 8, 7), (2, 2, 1), (8, 4, 4), (2, 1, 1)])
def test_a_busy_core_is_predicted_to_cost_one_thread(cores: int, n_threads: int, busy: int) -> None:
    """One of N cores busy: the speed of N - 1 threads, or of all where a core was free anyway."""
    predicted = DecodeTime(0.08, 0.01, 0.0, cores)
    expected = predicted.next_to_busy_core(n_threads, adapts=True)
    assert expected.n_threads_busy == busy
    assert (expected.free, expected.busy) == (predicted.tokens_per_second(n_threads), predicted.tokens_per_second(busy))


def test_the_only_core_is_shared() -> None:
    """With one core, the busy process gets half of it."""
    expected = DecodeTime(0.08, 0.02, 0.0, 1).next_to_busy_core(1, adapts=True)
    assert (expected.n_threads_busy, expected.free, expected.busy) == (1, pytest.approx(10), pytest.approx(5))
    assert "half the speed of 1 thread" in describe_busy(BusyCore(1.0, 1.0), expected)


def test_describe_gives_the_prediction_of_the_chosen_number() -> None:
    """The sentence has the predicted speed next to the measured one; beyond the cores it is a limit."""
    predicted = DecodeTime(0.04, 0.01, 0.0, 2)
    found = ThreadScaling(16, 4, 2, 2, 80.0, (ThreadSpeed(2, 10.0, 30.0),))
    assert describe(found, 2, predicted) == (
        "2 threads: decode 30.0, prefill 10.0 tokens/s; decode is at 38% of its ceiling. Predicted decode: 33.3 tokens/s. "
        "Fastest decode: 2 threads."
    )
    assert describe(found.replace(speeds=()), 1, predicted) == "1 thread: not measured yet. Predicted decode: 20.0 tokens/s."
    assert "Predicted decode: at most 33.3 tokens/s." in describe(found, 3, predicted)


@pytest.mark.usefixtures("quick")
def test_moving_the_slider_shows_something_at_once(model: labkit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the chosen number before the prediction is there; later moves show prediction and picture."""
    timed, predict_speed = threading.Event(), threads.predict_speed

    def wait_and_predict(*given: Any, **options: Any) -> Any:
        assert timed.wait(60)
        return predict_speed(*given, **options)

    monkeypatch.setattr(threads, "predict_speed", wait_and_predict)
    made = ThreadsExplorer(model)
    made.controls["threads"].value = most = made.controls["threads"].max  # more than there are cores
    assert made.view.sentence.startswith(f"{most} threads: no prediction yet.")
    wait_until(lambda: made.message.startswith("predicting"))
    made.controls["threads"].value = 1
    assert made.view.sentence.startswith("1 thread: no prediction yet.")
    timed.set()
    assert made.wait()
    assert made.view.sentence == "1 thread: not measured yet. Predicted decode: 55.6 tokens/s."
    assert "Marked: 1." in str(made.view.picture.get_label())
    made.controls["threads"].value = 2
    assert made.wait()
    assert made.view.sentence.startswith("2 threads: not measured yet. Predicted decode:")
    assert "Marked: 2." in str(made.view.picture.get_label())
    made.close()


@pytest.mark.usefixtures("quick")
def test_moving_the_slider_during_a_measurement_shows_it_at_once(model: labkit.Model) -> None:
    """A measurement goes on, and the view is that of the new number."""
    made = ThreadsExplorer(model)
    made.controls["n_prompt"].value = 128
    assert made.wait()
    made.measure([1])
    wait_until(lambda: made.message.startswith("measuring"))
    made.controls["threads"].value = made.controls["threads"].max
    assert made.view.sentence.startswith(f"{made.controls['threads'].max} threads: not measured yet. Predicted decode:")
    assert made.wait()
    assert made.message == "done"
    assert [row[0] for row in made.view.tables[0].rows] == ["1"]
    made.close()


# -- a busy core -------------------------------------------------------------------------------------------------------


def test_samples_last_a_quarter_of_a_second() -> None:
    """A sample has the tokens of at least 0.25 s and the threads of most; a new text starts a new one."""
    run = BusyCore(2.0, 10.0)
    assert not run.add(0.0, 1, 0)
    assert [run.add(0.1 * step, 1, 1 if step == 1 else 2) for step in (1, 2, 3)] == [False, False, True]
    assert not run.add(5.0, 1, 0)
    assert not run.add(5.1, 0, 2)
    assert run.add(6.0, 2, 1)
    assert [(round(s.end_s, 3), round(s.speed, 3), s.n_threads) for s in run.samples] == [(0.3, 10.0, 2), (6.0, 2.0, 1)]


def test_busy_view_has_prediction_and_measurement_by_phase() -> None:
    """Sentence, alt text and table say when the core was busy, the threads and the speeds; the picture does not rescale."""
    run = BusyCore(1.0, 2.0)
    run.move_busy(1.5)
    for at_s, n_threads, n_tokens in ((0.0, 0, 1), (0.5, 2, 50), (1.0, 2, 50), (2.0, 1, 50), (3.0, 1, 50), (4.0, 2, 100)):
        run.add(at_s, n_tokens, n_threads)
    expected = Expected(2, 2, adapts=True, free=90.0, busy=55.0)
    view = view_busy(run, expected, "2 threads: not measured yet.")
    assert view.sentence == (
        "With one of 2 cores busy, predicted: about the speed of 1 thread, 55.0 tokens/s. A fixed team of 2 waits at each "
        "barrier for the thread without a core. Before: 2 threads, 100.0 tokens/s. Busy: 1 thread, 50.0 tokens/s. After: "
        "2 threads, 100.0 tokens/s. 2 threads: not measured yet."
    )
    assert "busy from 1.5 s" in str(view.picture.get_label())
    assert "Busy: 1 thread, 50.0 tokens/s" in str(view.picture.get_label())
    assert [row[1] for row in view.tables[0].rows] == ["no", "no", "yes", "yes", "no"]
    upper, lower = view.picture.axes
    assert [text.get_text() for text in upper.texts] == ["one core busy"]
    assert lower.get_xlim() == (0, 4.5)
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("decode (tokens/s)", "threads", "time (s)")
    assert "This model keeps n_threads=2" in describe_busy(run, Expected(2, 2, adapts=False, free=90.0, busy=55.0))


@pytest.mark.usefixtures("quick")
def test_keep_busy_shows_threads_and_speed_until_it_ends(model: labkit.Model) -> None:
    """A process is busy while text is generated; at the end the view has all three phases, and no process is left."""
    made = ThreadsExplorer(model)
    made.keep_busy()
    wait_until(busy_processes)
    assert made.wait(120)
    assert made.message == "done"
    assert not busy_processes()
    assert "Busy: " in made.view.sentence
    rows = made.view.tables[0].rows
    assert {"yes"} <= {row[1] for row in rows} <= {"yes", "no"}
    assert all(1 <= int(row[2]) <= model.settings.n_threads for row in rows)
    made.controls["threads"].value = most = made.controls["threads"].max
    assert made.wait()
    assert made.view.sentence.startswith(f"{most} threads: not measured yet.")
    made.close()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["stop", "close"])
def test_stop_and_close_end_the_busy_process(model: labkit.Model, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Stop ends text and process, and keeps the picture; close ends them too. Moving the slider does not."""
    monkeypatch.setattr(ThreadsExplorer, "busy_s", 600.0)
    made = ThreadsExplorer(model)
    made.keep_busy()
    wait_until(lambda: made.message.startswith("one core busy: "))
    made.controls["threads"].value = 1
    assert "1 thread: not measured yet." in made.view.sentence
    assert busy_processes()
    getattr(made, how)()
    if how == "stop":
        assert made.wait()
        assert made.message == "stopped"
    assert not busy_processes()
    made.close()
    assert labkit.generate_text(model, "The capital of France is", 1, 0) == " Paris"
