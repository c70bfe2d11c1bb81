"""Sampling explorer: the next token's distribution, before and after a grammar, temperature, top-k, top-p and min-p."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets
import numpy as np

from labkit import sampling
from labkit.engine import Model, allowed_tokens, next_token_logits, token_text
from labkit.grammar.json_schema import grammar_of_schema
from labkit.plots.picture import canvas
from labkit.plots.sampling import plot_next_token
from labkit.tables import Table
from labkit.units import counted
from labkit.widgets.explorer import Values
from labkit.widgets.model_explorer import ModelExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.controls import button, sampler_sliders
from labkit.widgets.parts.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_BARS = 12
_EDGES = (0.05, 0.1, 0.25, 0.5, 1.0)  # probabilities at the right edge of the picture


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
    forbidden: tuple[bool, ...] = ()  # by a grammar, for each of the tokens


def next_token(
    logits: NDArray[np.float32],
    *,
    seed: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    allowed: NDArray[np.bool_] | None = None,
) -> NextToken:
    """Apply a grammar's mask and the samplers to logits; the other arguments are those of `sampling.choose_token`."""
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    masked = logits if allowed is None else np.where(allowed, logits, -np.inf)
    shaped = sampling.shape_logits(masked, **settings)
    before, after = sampling.softmax(logits), sampling.softmax(shaped)
    drawn = sampling.choose_token(masked, seed, **settings)
    order = [int(token) for token in np.argsort(-logits, kind="stable")]
    kept = [] if allowed is None else [token for token in order if allowed[token]][: N_BARS // 2]
    others = [token for token in order[:N_BARS] if token not in kept]
    first = sorted([*kept, *others[: N_BARS - len(kept)]], key=order.index)
    tokens = tuple(first if drawn in first else [*first, drawn])
    return NextToken(
        tokens,
        tuple(float(before[token]) for token in tokens),
        tuple(float(after[token]) for token in tokens),
        int(np.isfinite(shaped).sum()),
        sampling.entropy_bits(logits),
        sampling.entropy_bits(shaped),
        drawn,
        () if allowed is None else tuple(not allowed[token] for token in tokens),
    )


class SamplingExplorer(ModelExplorer):
    """The next token's distribution as bars, before and after the samplers; the logits are computed once per prompt.

    ``grammar``, a grammar (GBNF) or a JSON schema, adds a box to change it, and one for the answer that it constrains.
    """

    title: ClassVar[str] = "Sampling explorer"

    def __init__(
        self,
        model: Model | Path | str | None = None,
        *,
        prompt: str = "The best thing about cats is",
        grammar: str | Mapping[str, Any] | None = None,
    ) -> None:
        self.use_model(model, n_ctx=1024)
        self._computed: tuple[list[str], NDArray[np.float32], NDArray[np.bool_] | None] | None = None
        self.next: NextToken | None = None
        texts = {"prompt": _text_box("Prompt", prompt)}
        if grammar is not None:
            rules = grammar if isinstance(grammar, str) else json.dumps(grammar)
            texts |= {
                "grammar": _text_box("Grammar or JSON schema", rules),
                "answer": _text_box("Answer so far", "", rows=1),
            }
        self.choice = ipywidgets.Select(description="Token to append", options=[], rows=5)
        super().__init__(
            {**texts, **sampler_sliders()},
            actions=[
                button("Append the drawn token", lambda: self.append(None)),
                button("Append the selected token", lambda: self.append(self.choice.value)),
            ],
            below=[self.choice],
        )

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Compute the logits if the text is new, and apply the grammar and the samplers."""
        settings = dict(values)
        texts = prompt, answer, rules = [settings.pop(name, "") for name in ("prompt", "answer", "grammar")]
        if self._computed is None or self._computed[0] != texts:
            allowed = allowed_tokens(self.model(), _as_grammar(rules), answer) if rules.strip() else None
            self._computed = texts, next_token_logits(self.model(), prompt + answer), allowed
        _, logits, allowed = self._computed
        self.next = found = next_token(logits, **settings, allowed=allowed)
        names = [token_text(self.model(), token) or "(end)" for token in found.tokens]
        if not ticket.cancelled:
            self._offer(found, names)
        view = self._make_view(found, names, values["seed"])
        if allowed is None:
            return view
        mask = f"The grammar allows {int(allowed.sum()):,} of {len(allowed):,} tokens here. "
        return dataclasses.replace(view, sentence=mask + view.sentence)

    def append(self, token: int | None) -> None:
        """Append a token to the prompt, or to the answer with a grammar; None is the drawn one."""
        if self.next is not None:
            chosen = self.next.drawn if token is None else token
            self.controls["answer" if "answer" in self.controls else "prompt"].value += token_text(self.model(), chosen)

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
        cut = "after grammar and samplers" if found.forbidden else "after the samplers"
        axes = canvas(0.9 + 0.36 * (N_BARS + 1), left=0.30)
        plot_next_token(
            names, found.before, found.after, chosen=place, cut=cut, limit=limit, forbidden=found.forbidden, axes=axes
        )
        axes.set_ylim(N_BARS + 0.5, -0.5)
        gone = ["forbidden" if no else "dropped" for no in found.forbidden or [False] * len(names)]
        rows = [
            (repr(name), f"{before:.2%}", f"{after:.2%}" if after else why_not, "drawn" if index == place else "")
            for index, (name, before, after, why_not) in enumerate(zip(names, found.before, found.after, gone, strict=True))
        ]
        sentence = (
            f"{counted(found.n_kept, 'token')} can be drawn. Entropy: {found.entropy_bits:.2f} bits "
            f"before, {found.entropy_after_bits:.2f} after: like a uniform choice among {2**found.entropy_after_bits:.1f}. "
            f"Seed {seed} draws {names[place]!r} ({100 * found.after[place]:.1f} %)."
        )
        table = Table(f"The {N_BARS} likeliest tokens", ("token", "model", "after the samplers", ""), rows)
        return View(sentence, axes, [table])


def _text_box(label: str, value: str, rows: int = 3) -> Any:
    return ipywidgets.Textarea(value=value, description=label, continuous_update=False, rows=rows)


def _as_grammar(rules: str) -> str:
    """Return a grammar as it is, and a JSON schema as a grammar."""
    return grammar_of_schema(rules) if rules.lstrip().startswith("{") else rules
