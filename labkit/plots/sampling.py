"""The next token's distribution before and after the samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.plots.picture import MAIN, OTHER, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_FORBIDDEN = "#767676"  # grey, dark enough for text


def plot_next_token(
    tokens: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    *,
    chosen: int | None = None,
    cut: str = "after the samplers",
    limit: float | None = None,
    forbidden: Sequence[bool] = (),
    axes: Axes | None = None,
) -> Axes:
    """Draw the likeliest tokens, two bars each: the probability before and after the samplers.

    The bars are in per cent, in the given order.

    Parameters
    ----------
    tokens : sequence of str
        Labels of the bars.
    before, after : sequence of float
        Probabilities, one per token.
    chosen : int, optional
        Index of the drawn token, which is marked.
    cut : str
        What made the second bars.
    limit : float, optional
        Probability at the right edge; longer bars end there, with their value. By default all bars fit.
    forbidden : sequence of bool
        Which tokens a grammar forbids: their bars and names are grey, and marked.

    Examples
    --------
    >>> plot_next_token([" Paris", " the"], [0.5, 0.25], [0.75, 0.25], chosen=0).get_label()
    'Bar chart of the next token. “ Paris” (drawn): 50.0 %, now 75.0 %; “ the”: 25.0 %, now 25.0 %.'
    """
    axes = new_axes(0.8 + 0.42 * len(tokens)) if axes is None else axes
    notes = [" ✗" if no else "" for no in (forbidden if len(forbidden) else [False] * len(tokens))]
    names = [f"{label_of(token)}{' ◀ drawn' if place == chosen else notes[place]}" for place, token in enumerate(tokens)]
    for shift, values, colour, hatch, label in (
        (-0.2, before, OTHER, "//", "model"),
        (0.2, after, MAIN, "", cut),
    ):
        places = [place + shift for place in range(len(tokens))]
        axes.barh(places, [100 * value for value in values], 0.38, color=colour, hatch=hatch, edgecolor="white", label=label)
        for place, value in zip(places, values, strict=True):
            if limit is not None and value > limit:
                text = f"{value:.0%} ▶".replace("%", " %")
                axes.text(99 * limit, place, text, ha="right", va="center", color="white", weight="bold", fontsize="small")
    if any(notes):
        axes.barh([0], [0], color=_FORBIDDEN, hatch="//", edgecolor="white", label="model, forbidden ✗")
    axes.set_yticks(range(len(tokens)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100 * limit if limit else max(1e-9, *(100 * value for value in (*before, *after))) * 1.05)
    axes.set_xlabel("probability of the next token (%)")
    axes.legend(frameon=False, loc="lower right")
    for bar, name, note in zip(axes.containers[0], axes.get_yticklabels(), notes, strict=True):
        if note:  # after the legend, which takes its colour from the first bar
            bar.set_facecolor(_FORBIDDEN)
            name.set_color(_FORBIDDEN)
    marks = [" (drawn)" if place == chosen else " (forbidden)" if note else "" for place, note in enumerate(notes)]
    rows = "; ".join(
        f"“{token}”{mark}: {was:.1%}, now {now:.1%}"
        for token, mark, was, now in zip(tokens, marks, before, after, strict=True)
    ).replace("%", " %")
    axes.set_label(f"Bar chart of the next token. {rows}.")
    return axes


def label_of(token: str, limit: int = 16) -> str:
    """Return a token as a short label with visible white space, and dollars escaped for matplotlib."""
    label = token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥").replace("$", r"\$")
    return label if len(label) <= limit else label[: limit - 1] + "…"
