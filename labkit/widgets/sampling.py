"""Sampling explorer: the next token's distribution, before and after temperature, top-k, top-p and min-p."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets
import numpy as np

from labkit import sampling
from labkit.engine import Model, next_token_logits, token_text
from labkit.plots.picture import canvas
from labkit.plots.sampling import plot_next_token
from labkit.tables import Table
from labkit.widgets.explorer import ModelExplorer, Values, button, slider
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.loaded_model import Loaded
from labkit.widgets.parts.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_BARS = 12
_EDGES = (0.05, 0.1, 0.25, 0.5, 1.0)  # probabilities at the right edge of the picture
_WIDE = {"width": "100%", "max_width": "36em"}


@dataclasses.dataclass(frozen=True)
class NextToken:
    """The samplers' effect on one row of logits."""

    tokens: tuple[int, ...]  # the likeliest ones, and the drawn one if it is not among them
    before: tuple[float, ...]  # their probabilities
    after: tuple[float, ...]
    n_kept: int  # tokens in the vocabulary that can still be drawn
    entropy_bits: float
    entropy_after_bits: float
    drawn: int  # by the seed


def next_token(
    logits: NDArray[np.float32], *, seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> NextToken:
    """Apply the samplers to logits; the arguments are those of `sampling.choose_token`."""
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    shaped = sampling.shape_logits(logits, **settings)
    before, after = sampling.softmax(logits), sampling.softmax(shaped)
    drawn = sampling.choose_token(logits, seed, **settings)
    first = [int(token) for token in np.argsort(-logits, kind="stable")[:N_BARS]]
    tokens = tuple(first if drawn in first else [*first, drawn])
    return NextToken(
        tokens,
        tuple(float(before[token]) for token in tokens),
        tuple(float(after[token]) for token in tokens),
        int(np.isfinite(shaped).sum()),
        sampling.entropy_bits(logits),
        sampling.entropy_bits(shaped),
        drawn,
    )


class SamplingExplorer(ModelExplorer):
    """The next token's distribution as bars, before and after the samplers; the logits are computed once per prompt.

    Parameters
    ----------
    model : Model, Path or str, optional
        A loaded model, or a file or name to load.
    prompt : str
        The initial prompt.
    """

    title: ClassVar[str] = "Sampling explorer"

    def __init__(self, model: Model | Path | str | None = None, *, prompt: str = "The best thing about cats is") -> None:
        self._loaded = Loaded(model, n_ctx=1024)
        self._computed: tuple[str, NDArray[np.float32]] | None = None
        self.next: NextToken | None = None
        text = ipywidgets.Textarea(
            value=prompt,
            description="Prompt",
            continuous_update=False,
            rows=3,
            style={"description_width": "initial"},
            layout=_WIDE,
        )
        self.choice = ipywidgets.Select(
            description="Token to append", options=[], rows=5, style={"description_width": "initial"}, layout=_WIDE
        )
        super().__init__(
            {
                "prompt": text,
                "temperature": slider("Temperature", 0.7, 0.0, 3.0, 0.05),
                "top_k": slider("Top-k (0 keeps all)", 40, 0, 100, 1),
                "top_p": slider("Top-p", 0.95, 0.0, 1.0, 0.01),
                "min_p": slider("Min-p", 0.05, 0.0, 1.0, 0.01),
                "seed": slider("Seed", 0, 0, 100, 1),
            },
            actions=[
                button("Append the drawn token", lambda: self.append(None)),
                button("Append the selected token", lambda: self.append(self.choice.value)),
            ],
            below=[self.choice],
        )

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Compute the logits if the prompt is new, and apply the samplers."""
        prompt = values["prompt"]
        if self._computed is None or self._computed[0] != prompt:
            self._computed = prompt, next_token_logits(self._loaded.model(), prompt)
        settings = {name: value for name, value in values.items() if name != "prompt"}
        self.next = found = next_token(self._computed[1], **settings)
        names = [token_text(self._loaded.model(), token) for token in found.tokens]
        if not ticket.cancelled:
            self._offer(found, names)
        return self._make_view(found, names, values["seed"])

    def append(self, token: int | None) -> None:
        """Append a token to the prompt; None is the drawn one."""
        if self.next is not None:
            chosen = self.next.drawn if token is None else token
            self.controls["prompt"].value += token_text(self._loaded.model(), chosen)

    def _offer(self, found: NextToken, names: list[str]) -> None:
        options = [
            (f"{name!r}  {share:.1%}".replace("%", " %"), token)
            for name, share, token in zip(names, found.after, found.tokens, strict=True)
        ]
        if tuple(options) != tuple(self.choice.options):
            selected = self.choice.value
            self.choice.options = options
            self.choice.value = selected if selected in found.tokens else found.tokens[0]

    def _make_view(self, found: NextToken, names: list[str], seed: int) -> View:
        place = found.tokens.index(found.drawn)
        # The same edges for all settings of a prompt, with room for a drawn token: bars that do not change do not move.
        limit = next(edge for edge in _EDGES if edge >= min(1.0, 2 * found.before[0]))
        axes = canvas(0.9 + 0.36 * (N_BARS + 1), left=0.30)
        plot_next_token(names, found.before, found.after, chosen=place, limit=limit, axes=axes)
        axes.set_ylim(N_BARS + 0.5, -0.5)
        rows = [
            (repr(name), f"{before:.2%}", f"{after:.2%}" if after else "dropped", "drawn" if index == place else "")
            for index, (name, before, after) in enumerate(zip(names, found.before, found.after, strict=True))
        ]
        sentence = (
            f"{found.n_kept:,} token{'s' if found.n_kept != 1 else ''} can be drawn. Entropy: {found.entropy_bits:.2f} bits "
            f"before, {found.entropy_after_bits:.2f} after: like a uniform choice among {2**found.entropy_after_bits:.1f}. "
            f"Seed {seed} draws {names[place]!r} ({found.after[place]:.1%})."
        )
        table = Table(f"The {N_BARS} likeliest tokens", ("token", "model", "after the samplers", ""), rows)
        return View(sentence, axes, [table])
