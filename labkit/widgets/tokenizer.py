"""Tokenizer explorer: the tokens of a text while it is typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import ipywidgets

from labkit.widgets.explorer import Values
from labkit.widgets.model_explorer import ModelExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.pieces_html import Piece, pieces_html, pieces_table
from labkit.widgets.parts.view import View

if TYPE_CHECKING:
    from labkit.engine import Model
    from labkit.engine.tokenizer import Tokenizer


def cut_into_pieces(vocabulary: Tokenizer, text: str, *, parse_special: bool = False) -> list[Piece]:
    """Return the tokens of a text, without the tokens that some models add around it."""
    tokens = vocabulary.tokenize(text, parse_special=parse_special)
    return [Piece(token, vocabulary.piece(token), vocabulary.token_text(token)) for token in tokens]


class TokenizerExplorer(ModelExplorer):
    """A text's tokens as coloured pieces with ids and bytes, and their share of the context, while the user types."""

    title: ClassVar[str] = "Tokenizer explorer"
    settle_s: ClassVar[float] = 0.1

    def __init__(
        self, model: Model | Path | str | None = None, *, text: str = "The quick brown fox jumps over the lazy dog."
    ) -> None:
        self.use_model(model, n_ctx=2048)
        self.pieces: list[Piece] = []
        box = ipywidgets.Textarea(description="Text", value=text, rows=4, placeholder="type or paste a text")
        special = ipywidgets.Checkbox(description="Read control tokens, such as <|im_end|>", value=False, indent=False)
        super().__init__({"text": box, "parse_special": special})

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Tokenize the text."""
        model = self.model()
        with model.vocabulary() as vocabulary:
            pieces = cut_into_pieces(vocabulary, values["text"], parse_special=values["parse_special"])
        self.pieces = pieces
        return View(describe(values["text"], pieces, model.n_ctx()), None, [pieces_table(pieces)], pieces_html(pieces))


def describe(text: str, pieces: Sequence[Piece], n_ctx: int) -> str:
    """Return what a text costs, in one or two sentences."""
    if not pieces:
        return "No text, no tokens."
    n_tokens, n_characters = len(pieces), len(text)
    sentence = (
        f"{_count(n_tokens, 'token')} for {_count(n_characters, 'character')} ({_count(len(text.encode()), 'byte')}): "
        f"{n_characters / n_tokens:.2f} characters per token, {100 * n_tokens / n_ctx:.2g} % of a context of {n_ctx:,}."
    )
    parts = sum(not piece.is_text and not piece.is_control for piece in pieces)
    controls = sum(piece.is_control for piece in pieces)
    if parts:
        sentence += f" Not complete characters: {_count(parts, 'token')}."
    if controls:
        sentence += f" Control tokens: {controls:,}."
    return sentence


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
