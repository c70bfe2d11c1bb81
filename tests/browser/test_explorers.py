"""Each explorer in JupyterLab, in Chromium, by keyboard: it shows the results of the pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import labkit
from labkit.widgets.sampling import next_token

if TYPE_CHECKING:
    from tests.browser.jupyter import Lab

LOAD = "import labkit\nmodel = labkit.load_model(n_ctx=1024)"


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    with labkit.load_model(n_ctx=1024) as loaded:
        yield loaded


def test_sampling_explorer_by_keyboard(lab: Lab, model: labkit.Model) -> None:
    """Every slider moved by an arrow key changes the sentence to next_token's result; a token is appended."""
    settings = {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 0}
    prompt = "The sky is"
    logits = labkit.next_token_logits(model, prompt)
    with lab.notebook(LOAD, f"labkit.explore('sampling', model, prompt={prompt!r})") as notebook:
        explorer = notebook.explorer("Sampling explorer")
        for label, name, step in (
            ("Temperature", "temperature", 0.05),
            ("Top-k (0 keeps all)", "top_k", 1),
            ("Top-p", "top_p", -0.01),
            ("Min-p", "min_p", -0.01),
            ("Seed", "seed", 1),
        ):
            explorer.press(explorer.slider(label), "ArrowRight" if step > 0 else "ArrowLeft", 3)
            settings[name] = round(settings[name] + 3 * step, 10)
            found = next_token(logits, **settings)
            explorer.wait_for_text(f"Entropy: {found.entropy_bits:.2f} bits before, {found.entropy_after_bits:.2f} after")
            explorer.wait_for_text(f"Seed {settings['seed']} draws {labkit.token_text(model, found.drawn)!r}")
        picture = explorer.box.locator("img").first
        assert "Bar chart of the next token" in str(picture.get_attribute("alt"))
        explorer.push("Append the drawn token")
        drawn = labkit.token_text(model, found.drawn)
        notebook.page.wait_for_function(
            "(text) => [...document.querySelectorAll('.labkit-explorer textarea')].some((one) => one.value === text)",
            arg=prompt + drawn,
        )
        assert notebook.errors == []


def test_sampling_explorer_with_a_grammar_by_keyboard(lab: Lab) -> None:
    """A token appended with Enter moves the mask; a grammar that is typed replaces it; an unfitting answer is one line."""
    with lab.notebook(LOAD, "labkit.explore('sampling', model, grammar='root ::= \"yes\" | \"no\"')") as notebook:
        explorer = notebook.explorer("Sampling explorer")
        explorer.wait_for_text("The grammar allows 5 of 49,152 tokens here.")
        explorer.push("Append the drawn token")
        answer = explorer.box.get_by_label("Answer so far", exact=True)
        rules = explorer.box.get_by_label("Grammar or JSON schema", exact=True)
        notebook.page.wait_for_function("(box) => box.value !== ''", arg=answer.element_handle())
        explorer.press(rules, "Control+a")
        notebook.page.keyboard.type('root ::= "x"')
        notebook.page.keyboard.press("Tab")
        explorer.wait_for_text("the grammar does not allow this text")
        assert notebook.errors == []


def test_tokenizer_explorer_by_keyboard(lab: Lab, model: labkit.Model) -> None:
    """The pieces follow each typed character; the control-token box works by the space bar; the table has every token."""
    with lab.notebook(LOAD, "labkit.explore('tokenizer', model, text='')") as notebook:
        explorer = notebook.explorer("Tokenizer explorer")
        explorer.wait_for_text("No text, no tokens.")
        explorer.box.get_by_label("Text", exact=True).focus()
        for typed, count in (("Hello", "1 token for 5 characters"), ("<|im_end|>", "8 tokens for 15 characters")):
            notebook.page.keyboard.type(typed)
            explorer.wait_for_text(count)
        pieces = explorer.box.get_by_role("region", name="The text in pieces, one per token")
        assert pieces.locator("span").all_text_contents() == ["Hello", "<", "|", "im", "_", "end", "|", ">"]
        explorer.press(explorer.box.get_by_role("checkbox"), "Space")
        explorer.wait_for_text("2 tokens for 15 characters")
        assert pieces.locator("span").all_text_contents() == ["Hello", "<|im_end|>"]
        explorer.press(explorer.box.get_by_text("Numbers"), "Enter")
        assert explorer.box.locator("td").all_text_contents() == [
            "19556",
            "48 65 6c 6c 6f",
            "",
            "2",
            "none",
            "control token",
        ]
        assert notebook.errors == []


def test_playground_by_keyboard(lab: Lab, model: labkit.Model) -> None:
    """Generate shows the text of generate_text with the sliders' values; Stop ends a long text."""
    prompt = "My favourite animal is"
    with lab.notebook(LOAD, f"labkit.explore('playground', model, prompt={prompt!r})") as notebook:
        explorer = notebook.explorer("Playground")
        explorer.press(explorer.slider("Seed"), "ArrowRight", 2)
        explorer.press(explorer.slider("Temperature"), "ArrowRight", 4)
        explorer.press(explorer.slider("Top-k (0 keeps all)"), "ArrowLeft", 5)
        explorer.press(explorer.slider("Top-p"), "ArrowLeft", 5)
        explorer.press(explorer.slider("Min-p"), "ArrowRight", 1)
        explorer.press(explorer.slider("Max tokens"), "ArrowLeft", 50)
        explorer.push("Generate")
        expected = labkit.generate_text(model, prompt, 14, 0.9, seed=2, top_k=35, top_p=0.9, min_p=0.06)
        explorer.wait_for_value("Transcript", prompt + expected)
        explorer.wait_for_text("tokens/s")
        explorer.wait_for_text("done")
        explorer.press(explorer.slider("Max tokens"), "End")
        explorer.press(explorer.slider("Temperature"), "Home")
        explorer.push("New conversation")
        explorer.wait_for_value("Transcript", "")
        explorer.box.get_by_label("Prompt", exact=True).fill("1, 2, 3, 4, 5, 6, 7, 8,")  # the model goes on counting
        explorer.push("Generate")
        notebook.page.wait_for_function("() => document.querySelector('.labkit-transcript textarea').value.length > 60")
        explorer.push("Stop")
        explorer.wait_for_text("stopped")
        assert notebook.errors == []


def test_playground_copies_by_keyboard(lab: Lab) -> None:
    """Copy puts the transcript into the clipboard, and the focus stays."""
    with lab.notebook(
        LOAD, "play = labkit.explore('playground', model)\nplay.transcript.value = 'to be copied'\nplay"
    ) as notebook:
        explorer = notebook.explorer("Playground")
        explorer.push("Copy transcript")
        box = explorer.box.get_by_label("Prompt", exact=True)
        box.focus()
        notebook.page.keyboard.press("Control+a")
        notebook.page.keyboard.press("Control+v")
        explorer.wait_for_value("Prompt", "to be copied")


@pytest.mark.thorough
def test_serving_explorer_by_keyboard(lab: Lab) -> None:
    """Sliders change the predicted schedule at once; Measure serves the users, and Stop ends that."""
    with lab.notebook(LOAD, "labkit.explore('serving', model)") as notebook:
        explorer = notebook.explorer("Serving explorer")
        explorer.wait_for_text("typical times of two cores")
        before = explorer.sentence
        explorer.press(explorer.slider("Slots"), "Home")
        explorer.wait_for_change(before)
        assert "user 2 waits" in str(explorer.box.locator("img").first.get_attribute("alt"))
        explorer.press(explorer.slider("Prompt (tokens)"), "Home")
        explorer.press(explorer.slider("Longest answer (tokens)"), "Home")
        explorer.push("Measure with this many slots")
        explorer.wait_for_text("done", timeout_s=60)
        explorer.wait_for_text("this machine's times")
        assert "measured: user 1 waits" in str(explorer.box.locator("img").first.get_attribute("alt"))
        explorer.press(explorer.slider("Longest answer (tokens)"), "End")
        explorer.push("Measure with this many slots")
        explorer.push("Stop")  # at once: it may still wait, load or measure
        explorer.wait_for_text("stopped")
        assert notebook.errors == []


@pytest.mark.thorough
def test_threads_explorer_by_keyboard(lab: Lab) -> None:
    """A number of threads is measured and shown, and Stop ends Measure all."""
    with lab.notebook(LOAD, "labkit.explore('threads', model)") as notebook:
        explorer = notebook.explorer("Threads explorer")
        explorer.wait_for_text("Nothing measured yet")
        explorer.press(explorer.slider("Prompt (tokens)"), "Home")
        explorer.press(explorer.slider("Max tokens"), "Home")
        explorer.press(explorer.slider("Threads"), "Home")
        explorer.push("Measure this many threads")
        explorer.wait_for_text(re.compile(r"^1 thread: decode [0-9.]+, prefill [0-9.]+ tokens/s"), timeout_s=60)
        assert "Line chart of speed by number of threads" in str(explorer.box.locator("img").first.get_attribute("alt"))
        explorer.wait_for_text("done")
        explorer.press(explorer.slider("Prompt (tokens)"), "End")
        explorer.wait_for_text("Last measured: 1 thread, decode")
        explorer.press(explorer.slider("Max tokens"), "End")
        explorer.push("Measure all")
        explorer.push("Stop")  # at once: it may still wait, load or measure
        explorer.wait_for_text("stopped")
        assert notebook.errors == []


def test_threads_explorer_next_to_a_busy_core_by_keyboard(lab: Lab) -> None:
    """The slider shows its number at once; the button shows threads and speed next to a busy core, and Stop ends that."""
    with lab.notebook(LOAD, "labkit.explore('threads', model)") as notebook:
        explorer = notebook.explorer("Threads explorer")
        explorer.press(explorer.slider("Threads"), "Home")
        explorer.wait_for_text(re.compile(r"^1 thread: "))
        explorer.wait_for_text(re.compile(r"Predicted decode: [0-9.]+ tokens/s"), timeout_s=90)
        assert "Marked: 1." in str(explorer.box.locator("img").first.get_attribute("alt"))
        explorer.push("Keep one core busy for 10 s")
        explorer.wait_for_text(re.compile(r"one core busy: [0-9]+ threads?, [0-9.]+ tokens/s"), timeout_s=90)
        explorer.wait_for_text(re.compile(r"Busy: [0-9]+ threads?, [0-9.]+ tokens/s"))
        explorer.push("Stop")
        explorer.wait_for_text("stopped")
        assert "One core is busy from" in str(explorer.box.locator("img").first.get_attribute("alt"))
        assert notebook.errors == []


@pytest.mark.thorough
def test_two_explorers_of_one_model_and_a_cell_that_runs_again(lab: Lab) -> None:
    """While one generates, the other works; running a cell again closes its first explorer, and no thread is left."""
    again = "import threading\nprint([t.name for t in threading.enumerate() if 'explorer' in t.name], first.is_closed)"
    cells = (
        LOAD,
        "first = globals().get('play')\nplay = labkit.explore('playground', model)\nplay",
        "labkit.explore('sampling', model)",
        again,
    )
    with lab.notebook(*cells) as notebook:
        play, sampling = notebook.explorer("Playground"), notebook.explorer("Sampling explorer")
        play.press(play.slider("Max tokens"), "End")
        play.push("Generate")
        before = sampling.sentence
        sampling.press(sampling.slider("Temperature"), "End")
        sampling.wait_for_change(before)
        notebook.run()
        notebook.page.get_by_text("[] True").wait_for()
        assert notebook.errors == []
