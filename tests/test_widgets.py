"""The explorers' base class, and the playground, sampling and threads explorers, without a browser."""

import gc
import html.parser
import itertools
import re
import threading
import time
import typing
import weakref
from collections.abc import Iterator
from pathlib import Path

import ipywidgets
import numpy as np
import pytest

import labkit
from labkit import sampling
from labkit.plots import plot_next_token, plot_threads
from labkit.tables import Table
from labkit.tuning.threads import ThreadScaling, ThreadSpeed, choose_thread_counts, stream_threads
from labkit.widgets import EXPLORERS, explorer
from labkit.widgets.explorer import Explorer, Values
from labkit.widgets.parts.background import Background, Ticket
from labkit.widgets.parts.controls import slider
from labkit.widgets.parts.view import View
from labkit.widgets.playground import Playground
from labkit.widgets.playground import describe as describe_text
from labkit.widgets.sampling import SamplingExplorer, next_token
from labkit.widgets.threads import ThreadsExplorer, describe


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    with labkit.load_model(n_ctx=1024) as loaded:
        yield loaded


def _explorer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "labkit-explorer"]


# -- one thread, the newest request -----------------------------------------------------------------------------------


def test_only_the_newest_request_runs() -> None:
    """Of many requests that arrive while one runs, only the last one runs; then no thread is left."""
    ran: list[int] = []
    first = threading.Event()

    def run(number: int, ticket: Ticket) -> None:
        ran.append(number)
        if number == 0:
            first.set()
            while not ticket.cancelled:
                time.sleep(0.001)

    background: Background[int] = Background(run)
    background.submit(0)
    assert first.wait(5)
    for number in range(1, 50):
        background.submit(number)
    assert background.wait(5)
    assert ran[0] == 0
    assert ran[-1] == 49
    assert len(ran) < 50
    assert background.wait(0)
    assert not _explorer_threads()


def test_requests_replaced_within_the_delay_do_not_run() -> None:
    """A request runs only if no newer one arrives within ``settle_s``."""
    ran: list[int] = []
    background: Background[int] = Background(lambda number, _ticket: ran.append(number), settle_s=0.5)
    for number in range(5):
        background.submit(number)
    assert background.wait(5)
    assert ran == [4]


def test_cancel_calls_the_callbacks() -> None:
    """A ticket's callbacks are called once, at once if it is already cancelled; after close, no request runs."""
    ticket, calls = Ticket(), []
    ticket.on_cancel(lambda: calls.append("first"))
    ticket.cancel()
    ticket.cancel()
    ticket.on_cancel(lambda: calls.append("second"))
    assert calls == ["first", "second"]
    background: Background[int] = Background(
        lambda _number, ticket: [time.sleep(0.001) for _ in iter(lambda: ticket.cancelled, True)]
    )
    background.submit(1)
    background.close()
    background.submit(2)
    assert background.wait(0)
    assert background.cancel() == (False, False)


# -- base class --------------------------------------------------------------------------------------------------------


class Doubler(Explorer):
    """Twice a number; 7 is an error, 9 never ends."""

    title = "Doubler"

    def __init__(self) -> None:
        self.computed: list[int] = []
        super().__init__({"number": slider("Number", 1, 0, 10, 1)})

    def compute(self, values: Values, ticket: Ticket) -> View:
        self.computed.append(values["number"])
        if values["number"] == 7:
            raise labkit.ArgumentError("seven\nwill not do <b>")
        while values["number"] == 9 and not ticket.cancelled:
            time.sleep(0.001)
        return View(f"twice is {2 * values['number']}", None, [Table("t", ("n",), [(str(values["number"]),)])])


def test_moving_a_control_updates_the_view() -> None:
    """The view is that of the control's last value."""
    doubler = Doubler()
    doubler.controls["number"].value = 4
    assert doubler.wait()
    assert doubler.view.sentence == "twice is 8"
    doubler.close()


def test_an_error_is_one_line_and_the_explorer_continues() -> None:
    """An exception is shown as one escaped line; the view stays, and the next value updates it."""
    doubler = Doubler()
    doubler.controls["number"].value = 7
    assert doubler.wait()
    assert doubler.message == "seven will not do <b>"
    assert "&lt;b&gt;" in doubler._status.value
    assert "Traceback" not in doubler._status.value
    assert doubler.view.sentence == "twice is 2"
    doubler.controls["number"].value = 3
    assert doubler.wait()
    assert (doubler.view.sentence, doubler.message) == ("twice is 6", "")
    doubler.close()


def test_a_slow_computation_is_cancelled() -> None:
    """A computation that never ends is cancelled when the control moves, and on Stop."""
    doubler = Doubler()
    doubler.controls["number"].value = 9
    while 9 not in doubler.computed:
        time.sleep(0.005)
    doubler.controls["number"].value = 5
    assert doubler.wait(5)
    assert doubler.view.sentence == "twice is 10"
    doubler.controls["number"].value = 9
    assert doubler.stop()
    assert doubler.wait(5)
    doubler.close()


@pytest.mark.parametrize("moment", ["waiting", "running", "over"])
def test_stop_is_reported(moment: str) -> None:
    """Stop is reported while work waits or runs; later there is nothing to stop."""
    doubler = Doubler()
    doubler._background._settle_s = 60.0 if moment == "waiting" else 0.0
    doubler.controls["number"].value = 4 if moment == "over" else 9
    while (moment == "running" and 9 not in doubler.computed) or (moment == "over" and not doubler.wait(0.01)):
        time.sleep(0.005)
    assert doubler.stop() == (moment != "over")
    assert doubler.wait(5)
    assert doubler.message == ("" if moment == "over" else "stopped")
    doubler.close()


def test_closing_leaves_nothing() -> None:
    """After close no thread, widget or reference is left, even during a computation."""
    before = set(ipywidgets.widgets.widget._instances)
    doubler = Doubler()
    doubler.controls["number"].value = 9
    doubler.close()
    doubler.close()
    assert not _explorer_threads()
    assert set(ipywidgets.widgets.widget._instances) <= before
    seen = weakref.ref(doubler)
    del doubler
    gc.collect()
    assert seen() is None


def test_running_a_cell_again_closes_its_explorers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run can open several explorers; the next run of the same cell closes them, but not those of other cells."""
    place = ["cell-1", 1]
    monkeypatch.setattr(explorer, "_cell", lambda: tuple(place))
    monkeypatch.setattr(explorer, "_in_cells", {})
    one, two = Doubler(), Doubler()
    place[:] = ["cell-2", 2]
    other = Doubler()
    assert not one.is_closed
    assert not two.is_closed
    place[:] = ["cell-1", 3]
    again = Doubler()
    assert one.is_closed
    assert two.is_closed
    assert not other.is_closed
    again.close()
    other.close()


def test_a_page_without_a_kernel_shows_the_initial_view() -> None:
    """The bundle has a text, and HTML with title and open tables of the initial view, whatever moved since."""
    doubler = Doubler()
    doubler.controls["number"].value = 5
    assert doubler.wait()
    bundle = doubler._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == "Doubler: twice is 10"
    assert "twice is 2" in bundle["text/html"]
    assert "<details open>" in bundle["text/html"]
    assert "Run this cell in JupyterLab" in bundle["text/html"]
    doubler.close()


def test_a_view_is_escaped() -> None:
    """Text in a sentence, a table or a title is not markup."""
    made = View("<script>", None, [Table("<i>", ("<u>",), [("<b>",)])])

    class Tags(html.parser.HTMLParser):
        found: typing.ClassVar[set[str]] = set()

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.found.add(tag)

    parser = Tags()
    parser.feed(made.to_static_html("<em2>"))
    assert not parser.found & {"script", "i", "u", "b", "em2"}


def test_every_explorer_opens_by_its_name() -> None:
    """For an unknown name, the error of explore lists the explorers."""
    with pytest.raises(labkit.ArgumentError, match="playground"):
        labkit.explore("nothing")
    assert {"playground", "sampling", "threads"} <= set(EXPLORERS)


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_sampling_explorer_shows_the_pure_function(model: labkit.Model) -> None:
    """The bars are those of next_token, with the logits computed once per prompt."""
    made = SamplingExplorer(model, prompt="The sky is")
    logits = labkit.next_token_logits(model, "The sky is")
    computed = made._computed
    for name, value in (("temperature", 1.5), ("top_k", 5), ("top_p", 0.5), ("min_p", 0.2), ("seed", 3)):
        made.controls[name].value = value
        assert made.wait()
        settings = {key: control.value for key, control in made.controls.items() if key != "prompt"}
        assert made.next == next_token(logits, **settings)
        assert made.message == ""
    assert made._computed is computed
    assert "1 token" in made.view.sentence or "tokens can be drawn" in made.view.sentence
    made.close()
    assert not model.is_closed


def test_bars_that_do_not_change_do_not_move(model: labkit.Model) -> None:
    """The picture's edges and the model's bars are the same for all settings of a prompt; longer bars show their value."""
    made = SamplingExplorer(model, prompt="Once upon a time, there was a")
    pictures = set()
    for settings in ({}, {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 9}, {"temperature": 0.0}):
        for name, value in settings.items():
            made.controls[name].value = value
        assert made.wait()
        axes = made.view.picture
        bars = [(bar.get_y(), round(bar.get_width(), 6), bar.get_height()) for bar in axes.containers[0]][:12]
        pictures.add((axes.get_xlim(), axes.get_ylim(), tuple(axes.figure.get_size_inches()), tuple(bars)))
        assert len(axes.texts) == (settings == {"temperature": 0.0})
    assert len(pictures) == 1
    assert axes.texts[0].get_text() == "100 % ▶"
    made.close()


def test_appending_a_token_updates_the_prompt(model: labkit.Model) -> None:
    """The drawn token, or another one, is appended to the prompt, and the next distribution is shown."""
    made = SamplingExplorer(model, prompt="The capital of France is")
    made.controls["temperature"].value = 0.0
    assert made.wait()
    made.append(None)
    assert made.wait()
    assert made.controls["prompt"].value == "The capital of France is Paris"
    other = made.choice.options[1][1]
    made.append(other)
    assert made.wait()
    assert made.controls["prompt"].value == "The capital of France is Paris" + labkit.token_text(model, other)
    made.close()


def test_a_grammar_masks_the_bars_and_follows_the_answer(model: labkit.Model) -> None:
    """Forbidden tokens are marked and have no second bar, the allowed ones share all; appended tokens move the mask."""
    prompt, grammar = "Is 17 a prime number? Answer:", 'root ::= "yes" | "no"'
    made = SamplingExplorer(model, prompt=prompt, grammar=grammar)
    assert made.next is not None
    allowed = labkit.allowed_tokens(model, grammar)
    assert [not no for no in made.next.forbidden] == [bool(allowed[token]) for token in made.next.tokens]
    assert {name for name, no in zip(made.next.after, made.next.forbidden, strict=True) if no} == {0.0}
    assert sum(made.next.after) == pytest.approx(1)
    assert made.view.sentence.startswith("The grammar allows 5 of 49,152 tokens here.")
    assert made.view.picture.get_label().count("(forbidden)") == sum(made.next.forbidden) > 0
    for _ in range(3):  # at most "y", "e", "s"
        made.append(None)
        assert made.wait()
    assert made.controls["prompt"].value == prompt
    assert made.controls["answer"].value in ("yes", "no")
    assert "“(end)” (drawn)" in made.view.picture.get_label()
    made.controls["answer"].value = "maybe"
    assert made.wait()
    assert "does not allow this text" in made.message
    made.controls["answer"].value, made.controls["grammar"].value = "", '{"type": "boolean"}'
    assert made.wait()
    assert "“t”: 0" in made.view.picture.get_label() or "“true”" in made.view.picture.get_label()
    made.controls["grammar"].value = ""
    assert made.wait()
    assert made.next.forbidden == ()
    made.close()


def test_a_prompt_that_is_too_long_is_one_line(model: labkit.Model) -> None:
    """The explorer reports a prompt that is too long; a shorter one works again."""
    made = SamplingExplorer(model)
    made.controls["prompt"].value = "word " * 3000
    assert made.wait()
    assert "1,024" in made.message
    made.controls["prompt"].value = "Hello"
    assert made.wait()
    assert made.message == ""
    made.close()


def test_next_token_includes_the_drawn_one() -> None:
    """A drawn token that is far from the likeliest is included, and probabilities add up."""
    logits = np.linspace(0, 0.01, 5000, dtype=np.float32)
    found = next_token(logits, seed=1, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    assert found.drawn in found.tokens
    assert found.n_kept == 5000
    assert found.entropy_bits == pytest.approx(np.log2(5000), abs=1e-4)
    greedy = next_token(logits, seed=1, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
    assert (greedy.n_kept, greedy.drawn, sum(greedy.after)) == (1, 4999, 1.0)


def test_plot_next_token_survives_any_token() -> None:
    """Tokens that matplotlib would parse as a formula are drawn as text."""
    axes = plot_next_token(["$x^", "\n", "a" * 50, "_"], [0.4, 0.3, 0.2, 0.1], [1, 0, 0, 0], chosen=0)
    axes.figure.canvas.draw()
    assert "drawn" in axes.get_label()


# -- playground --------------------------------------------------------------------------------------------------------


def test_playground_streams_the_text_of_generate_text(model: labkit.Model) -> None:
    """The transcript is the prompt and the text of generate_text with the same settings."""
    play = Playground(model, prompt="My favourite animal is")
    play.controls["seed"].value = 5
    play.controls["max_tokens"].value = 12
    play.generate()
    assert play.wait()
    expected = labkit.generate_text(model, "My favourite animal is", 12, 0.7, seed=5)
    assert play.transcript.value == "My favourite animal is" + expected
    assert "tokens/s" in play.view.sentence
    assert play.message == "done"
    play.close()


def test_playground_chats_with_its_history(model: labkit.Model) -> None:
    """A second message is answered with the conversation so far."""
    play = Playground(model, prompt="Say yes.", mode="chat")
    play.controls["temperature"].value = 0.0
    play.controls["max_tokens"].value = 8
    for _ in range(2):
        play.controls["prompt"].value = "Say yes."
        play.generate()
        assert play.wait()
        assert play.controls["prompt"].value == ""  # sent
    play.generate()
    assert play.wait()
    assert play.message.startswith("the message is empty")
    roles = [message["role"] for message in play._messages]
    assert roles == ["user", "assistant", "user", "assistant"]
    assert play._messages[3]["content"] == labkit.generate_chat(model, play._messages[:3], 8, 0.0)
    assert play.transcript.value.count("You: Say yes.") == 2
    play.clear()
    assert play.wait()
    assert (play.transcript.value, play._messages) == ("", [])
    play.close()


def test_stop_keeps_the_text_and_a_new_run_ends_the_old_one(model: labkit.Model) -> None:
    """Stop ends a running generation; so does a second Generate; another explorer of the model is not affected."""
    play, other = Playground(model, prompt="Once upon a time"), SamplingExplorer(model)
    play.controls["max_tokens"].value = 512
    play.controls["temperature"].value = 1.5
    play.generate()
    while len(play.transcript.value) < 40:
        time.sleep(0.01)
    assert play.view.sentence == "Generating: the text grows in the transcript."
    play.stop()
    assert play.wait(10)
    assert "stopped" in play.view.sentence
    assert play.transcript.value.startswith("Once upon a time")
    assert play.transcript.value.endswith(" [stopped]")
    play.clear()
    assert play.wait()
    play.generate()
    while not play.transcript.value:
        time.sleep(0.01)
    other.controls["top_k"].value = 1
    play.controls["max_tokens"].value = 4
    play.generate()
    assert play.wait(30)
    assert other.wait(30)
    assert other.message == ""
    assert play.view.sentence.startswith("4 tokens")
    assert play.transcript.value.count(" [ended by the next Generate]\n\nOnce upon a time") == 1
    play.close()
    other.close()


def test_stopping_before_the_first_token_is_described() -> None:
    """No time to a first token that never came."""
    chunk = labkit.TextChunk("", 300, 0, 0.0, 0.0, 0.0, "cancelled")
    assert describe_text(chunk, stopped=True) == "Stopped before the first token, after a prompt of 300."


def test_transcript_is_saved(model: labkit.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save writes the transcript next to the notebook, and reports the file."""
    monkeypatch.chdir(tmp_path)
    play = Playground(model)
    play.transcript.value = "héllo"
    path = play.save()
    assert path is not None
    assert path.read_text(encoding="utf-8") == "héllo"
    assert path.name in play.message
    play.close()


def test_playground_shows_errors(model: labkit.Model) -> None:
    """A prompt that does not fit the context is an error in one line."""
    play = Playground(model, prompt="word " * 1000)
    play.generate()
    assert play.wait()
    assert "n_ctx" in play.message or "context" in play.message
    play.close()


# -- threads -----------------------------------------------------------------------------------------------------------


def test_thread_counts_grow_to_just_beyond_the_cores() -> None:
    """The counts include 1, the physical and logical cores, and one more, without duplicates."""
    for physical, logical in ((1, 1), (1, 2), (2, 2), (4, 8), (6, 12), (64, 128)):
        counts = choose_thread_counts(physical, logical)
        assert counts == tuple(sorted(set(counts)))
        assert {1, physical, logical} <= set(counts)
        assert sum(count > logical for count in counts) == 1


def test_threads_are_measured_in_turn(model: labkit.Model) -> None:
    """measure_threads returns a speed for each number of threads, and the roofline; it can be plotted."""
    found = labkit.measure_threads(model, [2, 1], n_prompt=16, n_gen=4)
    assert [speed.n_threads for speed in found.speeds] == [1, 2]
    assert all(speed.decode_tokens_per_second > 0 < speed.prompt_tokens_per_second for speed in found.speeds)
    assert found.roofline_tokens_per_second > 0
    assert "2 threads" in plot_threads(found).get_label()
    with pytest.raises(labkit.ArgumentTypeError, match="numbers to try"):
        labkit.measure_threads(model, 4)  # type: ignore[arg-type]


def test_measuring_threads_can_be_stopped(model: labkit.Model) -> None:
    """Closing the stream stops the measurement, and the model works as before."""
    stream = stream_threads(model, [1] * 1 + [2], n_prompt=512, n_gen=64)
    next(stream)
    stream.close()
    assert list(stream) == []
    assert labkit.generate_text(model, "The capital of France is", 1, 0) == " Paris"


def test_threads_explorer_measures_and_describes(model: labkit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured counts are in table and picture; new lengths discard them; the sentence follows the slider."""
    monkeypatch.setattr("labkit.roofline.kernels._SECONDS", 0.005)
    monkeypatch.setattr("labkit.roofline.predict._BEYOND_CACHES", 2**20)
    made = ThreadsExplorer(model)
    assert "Nothing measured" in made.view.sentence
    made.controls["n_prompt"].value = 16
    made.controls["n_gen"].value = 4
    assert made.wait()
    made.measure([1, 2])
    assert made.wait(120)
    assert made.message == "done"
    assert [row[0] for row in made.view.tables[0].rows] == ["1", "2"]
    assert "ceiling" in str(made.view.picture.get_label())
    made.controls["threads"].value = 1
    assert made.wait()
    assert made.view.sentence.startswith("1 thread: decode")
    made.controls["threads"].value = 3
    assert made.wait()
    shown = r"3 threads: not measured yet\. Last measured: 2 threads, decode [\d.]+ tokens/s\. Predicted"
    assert re.match(shown, made.view.sentence)
    made.controls["n_prompt"].value = 32
    assert made.wait()
    assert "no prediction yet. Last measured: 2 threads" in made.view.sentence
    made.close()


@pytest.mark.parametrize("after", ["", "predicting", "measuring 1", "measured 1"])
def test_threads_explorer_stops_at_any_moment(model: labkit.Model, after: str) -> None:
    """Stop ends a measurement before it starts, while the speed is predicted, and during it; then it can measure again."""
    made = ThreadsExplorer(model)
    made.controls["n_prompt"].value = 512
    made.controls["n_gen"].value = 128
    assert made.wait()
    made.measure([1] if after != "measured 1" else [1, 2, 3])
    while not made.message.startswith(after):
        time.sleep(0.001)
    assert made.stop()
    assert made.wait(10)
    assert made.message == "stopped"
    made.controls["n_prompt"].value = 16
    assert made.wait()
    made.measure([1])
    assert made.wait(60)
    assert made.message == "done"
    made.close()


def test_speeds_at_the_threads_do_not_cover_each_other() -> None:
    """The labels of a busy machine's speeds are apart, and above the axis, whichever of the two lines is higher."""
    speeds = (ThreadSpeed(1, 63.0, 29.0), ThreadSpeed(2, 22.0, 14.0), ThreadSpeed(3, 2.2, 0.1))
    axes = plot_threads(ThreadScaling(16, 4, 2, 2, 160.0, speeds))
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 6
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert min(box.y0 for box in boxes) >= axes.get_window_extent().y0


def test_describe_names_the_fastest() -> None:
    """The sentence names the fastest count, and the chosen one's percentage of the ceiling."""
    speeds = (ThreadSpeed(1, 10.0, 20.0), ThreadSpeed(2, 30.0, 40.0))
    found = ThreadScaling(16, 4, 2, 2, 80.0, speeds)
    assert describe(found, 2) == (
        "2 threads: decode 40.0, prefill 30.0 tokens/s; decode is at 50% of its ceiling. Fastest decode: 2 threads."
    )
    assert describe(found, 3).startswith("3 threads: not measured yet.")


def test_bars_before_the_samplers_are_the_softmax(model: labkit.Model) -> None:
    """The bars before the samplers are the softmax of the logits."""
    logits = labkit.next_token_logits(model, "One, two,")
    found = next_token(logits, seed=0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    assert found.before == pytest.approx([float(sampling.softmax(logits)[token]) for token in found.tokens])
    assert found.before == pytest.approx(found.after)
