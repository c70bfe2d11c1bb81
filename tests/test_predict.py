"""A prediction box reads a guess, keeps it, and shows it next to the measurement, with or without a frontend."""

import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import nbclient
import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.course import predict as predict_module
from labkit.course.guess import read_guess
from labkit.course.predict import Comparison, Prediction, predict
from labkit.errors import ArgumentError, ArgumentTypeError


@pytest.fixture(autouse=True)
def _forget_boxes() -> Iterator[None]:
    predict_module._boxes.clear()
    yield
    predict_module._boxes.clear()


def type_into(box: Prediction, text: str) -> None:
    """Type into the field and leave it, as a student does."""
    widget = box._widget()
    widget.children[1].value = text


def test_running_a_cell_again_keeps_its_guess() -> None:
    """The same question and unit return the same box; a different question or unit returns a new one."""
    predict("How fast?", unit="tokens/s").guess = 50
    assert predict("How fast?", unit="tokens/s").guess == 50
    assert predict("How fast?", unit="MiB/s").guess is None
    assert predict("How slow?", unit="tokens/s").guess is None


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("50", 50),
        (" 1,200 ", 1200),
        ("1 200 000", 1_200_000),
        ("0,5", 0.5),
        ("0,125", 0.125),
        ("3.25", 3.25),
        (".5", 0.5),
        ("2e3", 2000),
        ("-4", -4),
        ("about 50 tokens/s", 50),
        ("0", 0),
        ("", None),
        ("no idea", None),
        ("<b>", None),
        ("1e999", None),
        ("1.200,5", 1200.5),
        ("1,200.5", 1200.5),
        ("1.200.000", 1_200_000),
        ("1\u202f200,5", 1200.5),
        ("1'200", 1200),
        ("−4", -4),
        ("3/4", 0.75),
        ("about 1/2 of them", 0.5),
        ("3/0", None),
        ("12.", 12),
        ("1,2,3", None),
        ("3.14159", 3.14159),
        ("-1.5e-3", -0.0015),
    ],
)
def test_box_reads_numbers_as_people_type_them(text: str, guess: float | None) -> None:
    """Thousands separators, decimal points and commas, and units are read; text without a number is not a guess."""
    box = predict("How many?")
    type_into(box, text)
    assert box.guess == guess


@pytest.mark.parametrize(
    ("text", "unit", "guess"),
    [
        ("1 GB", "MB", 1000),
        ("1.5 GiB", "MiB", 1536),
        ("about 1,5 gb", "MB", 1500),
        ("2 G", "MiB", 2048),
        ("2G", "MB", 2000),
        ("500 MB/s", "GB/s", 0.5),
        ("22.5 KiB", "bytes", 23_040),
        ("23k", "bytes", 23_000),
        ("98", "million bytes from the beginning", 98),
        ("98 MB", "million bytes from the beginning", 98),
        ("98 million", "million bytes from the beginning", 98),
        ("40 %", "%", 40),
        ("40 percent", "% of the file", 40),
        ("1/2", "%", 50),
        ("1/2", "times the speed of F16", 0.5),
        ("40%", "times the speed of F16", 0.4),
        ("2 times", "%", 200),
        ("0.5", "%", 0.5),
        ("3x", "times", 3),
        ("20k", "tokens", 20_000),
        ("7B", "weights", 7e9),
        ("1.5 million tokens", "tokens", 1.5e6),
        ("2e9", "tokens", 2e9),
        ("250 ms", "s", 0.25),
        ("half a GB", "MB", None),
        ("1 GB", "tokens", None),
        ("40 %", "tokens", None),
        ("5 s", "tokens/s", None),
        ("12 tokens/s", "tokens/s", 12),
        ("4.5 bits", "bits per weight", 4.5),
        ("1 KB", "", 1),
    ],
)
def test_other_units_are_converted(text: str, unit: str, guess: float | None) -> None:
    """A guess in another unit is converted; one whose unit does not fit is no guess, and the box says so in one line."""
    box = predict("How many?", unit)
    type_into(box, text)
    assert box.guess == guess
    words = f"noted: {predict_module._quantity(guess, unit)}" if guess is not None else "is not a number in"
    assert words in box._widget().children[2].value


@pytest.mark.parametrize(("text", "words"), [("1.200", "1.2 or 1200"), ("10–20", "10 or 20"), ("10 to 20", "10 or 20")])
def test_box_asks_what_is_meant(text: str, words: str) -> None:
    """A number that can be read in two ways, and two numbers, are no guess: the box asks."""
    box = predict("How many?")
    type_into(box, text)
    assert box.guess is None
    assert words in box._widget().children[2].value


@given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from([",.", ".,", " .", " ,", "'.", "\u00a0,"]))
def test_numbers_of_any_country_are_read(value: Decimal, marks: str) -> None:
    """Whatever separates thousands and decimals, the number is the same."""
    text = f"{value:,.2f}".translate(str.maketrans(",.", marks))
    assert read_guess(text) == [float(value)]


@given(st.text())
def test_any_text_is_read_without_error(text: str) -> None:
    """Any text is a number, several, or none."""
    assert all(isinstance(value, float) for value in read_guess(text))


def test_guess_survives_a_restart(tmp_path: Path) -> None:
    """A typed guess is next to the notebook after a restart; emptying the box erases it; code and scripts keep none."""
    ask = "from labkit.course.predict import predict\nbox = predict('How fast?', 'tokens/s')\n"
    ask += "field = box._widget().children[1]"
    kept = "import os; print(os.path.exists('guesses.json'))"
    kernels = (
        [(f"{ask}\nfield.value = '1.200,5'\nprint(box.guess)\n{kept}", "1200.5\nTrue\n")],
        [
            (f"{ask}\nprint(field.value, box.guess)\n{kept}", "1.200,5 1200.5\nTrue\n"),
            (f"{ask}\nbox.guess = 3\nprint(field.value, box.guess)\nfield.value = ''\n{kept}", "3 3.0\nFalse\n"),
            (f"{ask}\nbox.guess = 5\nprint(box.guess)\n{kept}", "5.0\nFalse\n"),
        ],
    )
    for steps in kernels:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code, _ in steps])
        nbclient.NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
        printed = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
        assert printed == [text for _, text in steps]


def test_box_answers_what_was_typed() -> None:
    """A number is noted; anything else gets an example, and its markup is escaped."""
    box = predict("How many?", unit="tokens")
    type_into(box, "1200")
    status = box._widget().children[2]
    assert "noted: 1,200 tokens" in status.value
    type_into(box, "<script>x</script>")
    assert "is not a number" in status.value
    assert "<script>" not in status.value
    type_into(box, "")
    assert "not a number" not in status.value


def test_field_has_a_visible_label_and_a_tooltip() -> None:
    """The label is the field's description, which ipywidgets ties to it; the question is the tooltip."""
    field = predict("How fast?", unit="tokens/s")._widget().children[1]
    assert field.description == "Your guess (tokens/s):"
    assert field.tooltip == "How fast?"


def test_guess_set_in_code_shows_in_the_field() -> None:
    """Setting a guess fills the field, and None empties it."""
    box = predict("How many?")
    field = box._widget().children[1]
    box.guess = 23_040
    assert (field.value, box.guess) == ("23,040", 23_040)
    box.guess = None
    assert (field.value, box.guess) == ("", None)


@pytest.mark.parametrize(
    ("guess", "measured", "sentence"),
    [
        (50, 104, "you guessed 50, measured 104 tokens: a factor of 2.1 too low"),
        (300, 100, "you guessed 300, measured 100 tokens: a factor of 3 too high"),
        (45, 45, "you guessed 45, measured 45 tokens: exactly right"),
        (100, 104, "you guessed 100, measured 104 tokens: 4.0% too low"),
        (0, 3, "you guessed 0, measured 3 tokens: 3 too low"),
        (3, 1, "you guessed 3, measured 1 token: a factor of 3 too high"),
        (-2, -3, "you guessed -2, measured -3 tokens: 1 too high"),
        (None, 3.614, "measured 3.61 tokens (no guess yet: write one in the box and run this cell again)"),
    ],
)
def test_comparison_states_the_difference(guess: float | None, measured: float, sentence: str) -> None:
    """The sentence has both numbers and the factor, or the difference if one is zero or negative."""
    box = predict("How many?", unit="tokens")
    box.guess = guess
    assert box.compare(measured).sentence == sentence
    assert repr(box.compare(measured)) == sentence


def test_picture_has_an_equivalent_text() -> None:
    """The alt text has the question and both numbers, escaped; the caption repeats the sentence."""
    html = Comparison('Is 1 < "2"?', "<i>", 50, 104)._repr_html_()
    assert (
        'alt="Bar chart. Is 1 &lt; &quot;2&quot;? you guessed 50, measured 104 &lt;i&gt;: a factor of 2.1 too low"' in html
    )
    assert "data:image/png;base64," in html
    assert "<figcaption>you guessed 50, measured 104 &lt;i&gt;" in html
    assert "<i>" not in html


def test_a_position_has_no_bars() -> None:
    """Without a unit, an answer is a position or a level: its difference is named, and no bars are drawn."""
    comparison = Comparison("Which key?", "", 24, 26)
    assert comparison._repr_html_() == "<p>you guessed 24, measured 26: 2 too low</p>"


@pytest.mark.parametrize(("guess", "measured"), [(None, 0), (0, 0), (-3, 5), (1e-9, 1e12), (1, 1)])
def test_any_pair_of_numbers_can_be_drawn(guess: float | None, measured: float) -> None:
    """Zeros, negative numbers and very different numbers give a picture, too."""
    assert "data:image/png;base64,iVBORw0KGgo" in Comparison("How many?", "tokens", guess, measured)._repr_html_()


def test_question_is_shown_escaped_with_and_without_a_frontend() -> None:
    """The bundle has plain text, HTML and a widget view; markup in a question is escaped in HTML and widget."""
    box = predict("Is <b> bold & 'so'?", unit="tokens")
    bundle = box._repr_mimebundle_()
    assert bundle["text/plain"] == "Predict: Is <b> bold & 'so'? (no guess yet)"
    assert "Is &lt;b&gt; bold &amp;" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "&lt;b&gt;" in box._widget().children[0].value


def test_box_works_without_ipywidgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ipywidgets, the question is displayed as text and a guess can be set in code."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    box = predict("How many?", unit="tokens")
    assert set(box._repr_mimebundle_()) == {"text/plain", "text/html"}
    box.guess = 12
    assert "noted: 12 tokens" in box._repr_mimebundle_()["text/html"]
    assert box.compare(12).sentence.endswith("exactly right")


@pytest.mark.parametrize(
    ("value", "error"), [("50", ArgumentTypeError), (True, ArgumentTypeError), (float("nan"), ArgumentError)]
)
def test_measurement_must_be_a_finite_number(value: object, error: type[Exception]) -> None:
    """Text, a bool and NaN are refused with a one-line error."""
    with pytest.raises(error) as caught:
        predict("How many?").compare(value)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_question_must_be_text() -> None:
    """A number as the question is refused."""
    with pytest.raises(ArgumentTypeError, match="question must be text"):
        predict(3)  # type: ignore[arg-type]


def test_importing_predict_loads_neither_matplotlib_nor_ipywidgets() -> None:
    """Both are imported only when a box or a picture is first displayed."""
    code = "import sys, labkit.course.predict as _; "
    code += "print([m for m in ('matplotlib', 'ipywidgets', 'llama_cpp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
