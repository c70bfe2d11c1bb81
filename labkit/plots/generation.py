"""How a text is generated: the loop over tokens, and the KV cache that grows with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.plots.picture import MAIN, OTHER, new_axes, new_figure
from labkit.plots.sampling import label_of
from labkit.units import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LIGHT = "#E5F1F8"  # boxes, for black text


def plot_generation(
    prompt: Sequence[tuple[int, str]], *, n_layers: int, candidates: Sequence[tuple[str, float]], axes: Axes | None = None
) -> Axes:
    """Draw the loop that writes a text: tokens, layers, logits, sampler, and back with one more token.

    Parameters
    ----------
    prompt : sequence of (int, str)
        The prompt's tokens, id and text.
    n_layers : int
        Layers of the model.
    candidates : sequence of (str, float)
        The likeliest next tokens with their probabilities; the first is the chosen one.

    Examples
    --------
    >>> plot_generation([(504, "The"), (6376, " sky")], n_layers=30, candidates=[(" is", 0.5), (" was", 0.1)]).get_label()
    'Diagram of the loop that writes a text. The prompt “The sky” is 2 tokens: 504 “The”, 6376 “ sky”. They pass through \
30 layers. The logits rate every token of the vocabulary: “ is” 50.0 %, “ was” 10.0 %. The sampler chooses “ is”, which is \
added to the tokens, and the loop begins again.'
    """
    axes = new_axes(2.9) if axes is None else axes
    axes.set_xlim(0, 100)
    axes.set_ylim(1, 38)
    axes.axis("off")
    shown = [*prompt[:5], *([(None, "…")] if len(prompt) > 5 else [])]
    tokens = [f"{'' if token is None else token:>6} {label_of(text)}" for token, text in shown]
    chances = [f"{label_of(text, 9):<9} {chance:5.1%}".replace("%", " %") for text, chance in candidates[:4]]
    boxes = (
        ("prompt", [_wrap("".join(text for _, text in prompt))], 16),
        ("tokens", tokens, 19),
        (counted(n_layers, "layer"), ["each reads", "its weights", "and the cache"], 15),
        ("logits", chances, 19),
        ("sampler", ["chooses", label_of(candidates[0][0])], 13),
    )
    left = 1.0
    for number, (title, lines, width) in enumerate(boxes):
        _box(axes, left, width, title, "\n".join(lines), mono=title in ("tokens", "logits"))
        if number:
            _arrow(axes, (left - 4, 24), (left, 24))
        left += width + 4
    middle = {"tokens": 1 + 16 + 4 + 19 / 2, "sampler": left - 4 - 13 / 2}
    axes.plot([middle["sampler"], middle["sampler"], middle["tokens"]], [10, 4, 4], color=OTHER, linewidth=2)
    _arrow(axes, (middle["tokens"], 4), (middle["tokens"], 10), color=OTHER)
    axes.text(
        (middle["tokens"] + middle["sampler"]) / 2,
        5,
        "one more token, then again: the loop",
        ha="center",
        va="bottom",
        fontsize=9,
    )
    listed = ", ".join(f"{token} “{text}”" for token, text in prompt)
    rated = ", ".join(f"“{text}” {chance:.1%}" for text, chance in candidates).replace("%", " %")
    axes.set_label(
        f"Diagram of the loop that writes a text. The prompt “{''.join(text for _, text in prompt)}” is "
        f"{counted(len(prompt), 'token')}: {listed}. They pass through {counted(n_layers, 'layer')}. The logits rate "
        f"every token of the vocabulary: {rated}. "
        f"The sampler chooses “{candidates[0][0]}”, which is added to the tokens, and the loop begins again."
    )
    return axes


def plot_cache_growth(prompt: Sequence[str], written: Sequence[str], *, n_layers: int, n_cells: int) -> Figure:
    """Draw the KV cache as a grid of layers and tokens: after the prompt, and after each of the written tokens.

    Each step has a panel, in which the new squares are hatched.

    Parameters
    ----------
    prompt, written : sequence of str
        The prompt's tokens and the following ones, as texts.
    n_layers : int
        Layers of the model: rows of the grid.
    n_cells : int
        Columns to draw, of the cells that the context holds.

    Examples
    --------
    >>> plot_cache_growth(["The", " sky"], [" is"], n_layers=30, n_cells=8).get_label()
    'Grids of the KV cache, 30 layers by 8 cells. After the prompt: 2 columns filled, all of them in one step. After “ is”: \
3 columns filled, 1 of them new. The other cells are reserved and empty.'
    """
    figure = new_figure(6.5, 3.2, layout="constrained")
    panels: Any = figure.subplots(1, 1 + len(written), sharey=True, squeeze=False)[0]
    said = []
    for step, axes in enumerate(panels):
        n_old, n_filled = (len(prompt) + step - 1 if step else 0), len(prompt) + step
        for column in range(n_cells):
            new, filled = n_old <= column < n_filled, column < n_filled
            colour = OTHER if new else MAIN if filled else "none"
            axes.bar(
                [column] * n_layers, [0.8] * n_layers, 0.8, bottom=[row - 0.4 for row in range(n_layers)],
                color=colour, hatch="//" if new else "", edgecolor="white" if filled else "#999999", linewidth=0.4,
            )  # fmt: skip
        names = [label_of(text, 8) for text in (*prompt, *written[:step])] + [""] * (n_cells - n_filled)
        axes.set_xticks(range(n_cells), names, rotation=90)
        axes.set_xlim(-0.6, n_cells - 0.4)
        axes.set_ylim(n_layers - 0.4, -0.6)
        title = "after the prompt" if not step else f"after “{label_of(written[step - 1], 8)}”"
        axes.set_title(f"{title}: {counted(n_filled, 'cell')}", fontsize=10)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        said.append(
            f"After the prompt: {counted(n_filled, 'column')} filled, all of them in one step"
            if not step
            else f"After “{written[step - 1]}”: {n_filled} columns filled, 1 of them new"
        )
    panels[0].set_ylabel("layer")
    figure.supxlabel(
        "cells of the context, one per token: hatched when computed in this step,\nempty when only reserved", fontsize=10
    )
    figure.set_label(
        f"Grids of the KV cache, {n_layers} layers by {n_cells} cells. {'. '.join(said)}. "
        "The other cells are reserved and empty."
    )
    return figure


def _box(axes: Axes, left: float, width: float, title: str, text: str, *, mono: bool) -> None:
    """Draw a box with a title above it."""
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (left, 10), width, 21, boxstyle="round,pad=0,rounding_size=1.5", facecolor=_LIGHT, edgecolor=MAIN, linewidth=1.5
        )
    )
    axes.text(left + width / 2, 33, title, ha="center", va="bottom", fontweight="bold")
    place: dict[str, Any] = {"x": left + 1, "ha": "left"} if mono else {"x": left + width / 2, "ha": "center"}
    axes.text(y=20.5, s=text, va="center", fontsize=8, family="monospace" if mono else None, **place)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = MAIN) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
    )


def _wrap(text: str, width: int = 15) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:6]).replace("$", r"\$")
