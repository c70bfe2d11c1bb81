"""Prediction boxes: guess a number first, then see the guess next to the measurement.

A measurement teaches more if you wrote down a guess first. The box is an ipywidgets field. Without a frontend (a terminal,
nbconvert, an automatic run) everything else works the same, without a guess or with one set in code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.checks import check_number, check_text
from labkit.course.guess import read_guess
from labkit.output_files import write_atomic
from labkit.plots.picture import MAIN, OTHER, Picture, new_axes
from labkit.records import Record

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes

_LARGEST = 1e300
_NO_GUESS = "no guess yet: write one in the box and run this cell again"
_GUESSES = "guesses.json"  # next to the notebook, so that guesses survive a restart; delete it to forget them
# The field's border has a contrast of at least 3:1, in light and dark (WCAG 1.4.11).
_STYLE = (
    "<style>.labkit-guess{--jp-widgets-input-border-color:var(--jp-layout-color4,#757575)}"
    ".labkit-guess p{margin:0;line-height:1.4}</style>"
)
_boxes: dict[tuple[str, str], Prediction] = {}


def predict(question: str, unit: str = "") -> Prediction:
    """Ask for a guess.

    Parameters
    ----------
    question : str
        What to predict; plain text.
    unit : str
        Unit of the answer, for example ``"tokens/s"``; none for a position ("At which byte?"), which gets no bars.

    Returns
    -------
    Prediction
        Displays a box to answer in when it is the last line of a cell. The same question and unit return the same box, so
        running a cell again keeps its guess.

    Raises
    ------
    ArgumentTypeError
        If question or unit is not text.

    Examples
    --------
    >>> speed = predict("How fast will it be?", unit="tokens/s")
    >>> speed.guess = 50  # what a student types into the box
    >>> speed.compare(104)
    you guessed 50, measured 104 tokens/s: a factor of 2.1 too low
    """
    check_text("question", question)
    check_text("unit", unit)
    key = (question, unit)
    if key not in _boxes:
        _boxes[key] = Prediction(*key)
        _boxes[key]._restore(_kept_guesses().get(_name(key), ""))
    return _boxes[key]


class Prediction:
    """A question with a box to answer in, returned by `predict`.

    Attributes
    ----------
    question, unit : str
        As given.
    guess : float or None
        The current guess; can also be set in code. A guess typed in a notebook is kept in ``guesses.json`` next to it until
        the box is emptied or the file deleted.
    """

    def __init__(self, question: str, unit: str = "") -> None:
        self.question, self.unit = question, unit
        self._guess: float | None = None
        self._text = ""  # as typed
        self._field: Any = None
        self._answer: Any = None
        self._box: Any = None

    @property
    def guess(self) -> float | None:
        """The current guess; None if there is none."""
        return self._guess

    @guess.setter
    def guess(self, value: float | None) -> None:
        self._guess = None if value is None else check_number("guess", value, -_LARGEST, _LARGEST)
        self._text = "" if self._guess is None else _write(self._guess)
        if self._field is not None:
            self._field.unobserve(self._read_field, names="value")
            self._field.value = self._text
            self._field.observe(self._read_field, names="value")
            self._answer.value = _status(self._noted())

    def compare(self, measured: float) -> Comparison:
        """Compare the guess with the measurement: a sentence and, in a notebook, two bars.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If ``measured`` is not a finite number.
        """
        measured = check_number("measured", measured, -_LARGEST, _LARGEST)
        return Comparison(self.question, self.unit, self._guess, measured)

    def __repr__(self) -> str:
        answer = "no guess yet" if self._guess is None else f"your guess: {_quantity(self._guess, self.unit)}"
        return f"Predict: {self.question} ({answer})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        state = html.escape(self._noted() or "Run this cell for a box to answer in.")
        static = {"text/plain": repr(self), "text/html": f"{self._question_html()}<p>{state}</p>"}
        widget = self._widget()
        return static if widget is None else {**widget._repr_mimebundle_(), **static}

    def _question_html(self) -> str:
        return f"<p><strong>Predict:</strong> {html.escape(self.question)}</p>"

    def _noted(self) -> str:
        return "" if self._guess is None else f"noted: {_quantity(self._guess, self.unit)}"

    def _widget(self) -> Any:
        """Return the box, created when first displayed; None without ipywidgets."""
        try:
            import ipywidgets
        except ImportError:
            return None
        if self._box is None:
            label = f"Your guess ({self.unit}):" if self.unit else "Your guess:"
            self._field = ipywidgets.Text(
                value=self._text,
                placeholder="a number",
                description=label,  # a <label> tied to the field: screen readers read it, a click on it focuses the field
                tooltip=self.question,
                continuous_update=False,
                style={"description_width": "initial"},
                layout={"width": f"{12 + 0.6 * len(label):.0f}em", "max_width": "calc(100% - 4px)"},  # its margins
            )
            self._answer = ipywidgets.HTML(value=_status(self._noted()))
            self._field.observe(self._read_field, names="value")
            self._box = ipywidgets.VBox([ipywidgets.HTML(value=self._question_html() + _STYLE), self._field, self._answer])
            self._box.add_class("labkit-guess")
        return self._box

    def _restore(self, text: str) -> None:
        """Take up a guess that was typed before the kernel was restarted."""
        readings = read_guess(text, self.unit)
        if len(readings) == 1:
            self._text, self._guess = text, readings[0]

    def _read_field(self, change: Any) -> None:
        """Parse the typed text as the guess, and keep it."""
        self._text = str(change["new"])
        readings, shown = read_guess(self._text, self.unit), f"“{self._text.strip()}”"
        self._guess = readings[0] if len(readings) == 1 else None
        wrong = f"{shown} is not a number{f' in “{self.unit}”' if self.unit else ''}: enter one such as 12, 1,200 or 0.5"
        if len(readings) > 1:
            numbers = " or ".join(f"{value:.12g}" for value in readings)
            wrong = f"{shown} is not a number that can be read in one way only: enter {numbers}"
        self._answer.value = _status(wrong if self._text.strip() and self._guess is None else self._noted())
        _keep_guess(_name((self.question, self.unit)), "" if self._guess is None else self._text)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Comparison(Record):
    """A guess and a measurement, returned by `Prediction.compare`."""

    question: str
    unit: str  # of both numbers
    guess: float | None  # None if there was none
    measured: float

    @property
    def sentence(self) -> str:
        """Both numbers and their difference."""
        measured = f"measured {_quantity(self.measured, self.unit)}"
        if self.guess is None:
            return f"{measured} ({_NO_GUESS})"
        return f"you guessed {_write(self.guess)}, {measured}: {self._verdict(self.guess)}"

    def _verdict(self, guess: float) -> str:
        if guess == self.measured:
            return "exactly right"
        direction = "low" if guess < self.measured else "high"
        if min(guess, self.measured) <= 0 or not self.unit:
            return f"{_write(abs(guess - self.measured))} too {direction}"
        factor = max(guess, self.measured) / min(guess, self.measured)
        if factor < 1.2:
            return f"{(factor - 1):.1%} too {direction}"
        return f"a factor of {_write(factor, digits=2)} too {direction}"

    def __repr__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        if not self.unit:  # a position or a level, not an amount: bars from 0 would say nothing
            return f"<p>{html.escape(self.sentence)}</p>"
        picture = Picture(self._draw())._repr_html_()
        return f'<figure style="margin:0.5em 0 0">{picture}<figcaption>{html.escape(self.sentence)}</figcaption></figure>'

    def _draw(self) -> Axes:
        """Draw a bar for the guess (a question mark if there is none) and one for the measurement."""
        values = [0.0 if self.guess is None else float(self.guess), float(self.measured)]
        axes = new_axes(1.7)
        from matplotlib.ticker import MaxNLocator

        axes.set_label(f"Bar chart. {self.question} {self.sentence}")
        bars = axes.barh(["your guess", "measured"], values, color=[OTHER, MAIN], hatch=["//", ""], edgecolor="white")
        axes.bar_label(bars, labels=["?" if self.guess is None else _write(values[0]), _write(values[1])], padding=4)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        whole = all(value.is_integer() for value in values)
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=whole))
        axes.xaxis.set_major_formatter("{x:,.10g}")
        if not any(values):
            axes.set_xlim(0, 1)
        axes.set_xlabel(self.unit)
        axes.spines[["top", "right"]].set_visible(False)
        return axes


def _name(key: tuple[str, str]) -> str:
    return " | ".join(filter(None, key))


def _kept_guesses() -> dict[str, str]:
    """Return the typed guesses of this folder's notebooks, by question; empty outside of a notebook."""
    if _in_notebook():
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads(Path(_GUESSES).read_text(encoding="utf-8"))
            return {str(name): str(text) for name, text in found.items()}
    return {}


def _keep_guess(name: str, text: str) -> None:
    """Write a guess into the file, or remove it; a folder that cannot be written keeps none."""
    if not _in_notebook():
        return
    guesses = {**_kept_guesses(), name: text}
    kept = {key: guess for key, guess in sorted(guesses.items()) if guess}
    with contextlib.suppress(OSError):
        if kept:
            write_atomic(Path(_GUESSES), json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        else:
            Path(_GUESSES).unlink(missing_ok=True)


def _in_notebook() -> bool:
    """Return whether this process is a notebook's kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _write(value: float, *, digits: int = 3) -> str:
    """Format a number: whole numbers in full, others to N significant digits."""
    if (value == round(value) and abs(value) < 1e15) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _quantity(value: float, unit: str) -> str:
    if value == 1 and re.fullmatch(r"(?!of\b)[a-z ]+s", unit) and unit != "times":  # 1 token, not 1 tokens
        unit = unit[:-1]
    return f"{_write(value)} {unit}".rstrip()


def _status(text: str) -> str:
    return f'<span role="status">{html.escape(text)}</span>'
