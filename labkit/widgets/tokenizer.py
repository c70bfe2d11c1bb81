"""Tokenizer explorer: the tokens of a text while it is typed."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import ipywidgets

from labkit.checks import visible
from labkit.tables import Table
from labkit.units import counted
from labkit.widgets.explorer import Values
from labkit.widgets.model_explorer import ModelExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.fields_html import LIGHT_COLOURS
from labkit.widgets.parts.view import View

if TYPE_CHECKING:
    from labkit.engine import Model
    from labkit.engine.tokenizer import Tokenizer

_SHOWN = 1000  # coloured pieces; more make a browser slow
_LISTED = 200  # rows of the table
_BOX = (
    '<div tabindex="0" role="region" aria-label="The text in pieces, one per token" style="overflow:auto;max-height:20em;'
    "white-space:pre-wrap;overflow-wrap:anywhere;direction:ltr;line-height:2;font-family:monospace;font-size:1.05em;"
    'color:#000;background:#fff;padding:6px">{pieces}</div>'
)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A token of a text."""

    token: int
    raw: bytes  # the bytes that it adds to the text; none for a control token
    name: str  # in the vocabulary

    @property
    def is_control(self) -> bool:
        """Whether it adds nothing to the text, such as ``<|im_end|>``."""
        return not self.raw

    @property
    def is_text(self) -> bool:
        """Whether its bytes are complete characters."""
        try:
            self.raw.decode()
        except UnicodeDecodeError:
            return False
        return bool(self.raw)

    @property
    def text(self) -> str:
        r"""Its text with visible spaces and line ends; bytes that are not a character as ``\xe7``.

        Examples
        --------
        >>> Piece(6354, b" brown", "").text, Piece(178, b"\xe7", "").text
        ('␣brown', '\\xe7')
        """
        if self.is_control:
            return visible(self.name)
        marked = self.raw.decode("utf-8", "backslashreplace").replace(" ", "␣").replace("\n", "⏎\n").replace("\t", "⇥")
        return visible(marked, None, keep="\n")


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
        f"{counted(n_tokens, 'token')} for {counted(n_characters, 'character')} ({counted(len(text.encode()), 'byte')}): "
        f"{n_characters / n_tokens:.2f} characters per token, {100 * n_tokens / n_ctx:.2g} % of a context of {n_ctx:,}."
    )
    parts = sum(not piece.is_text and not piece.is_control for piece in pieces)
    controls = sum(piece.is_control for piece in pieces)
    if parts:
        sentence += f" Tokens that are parts of characters: {parts:,}."
    if controls:
        sentence += f" Control tokens: {controls:,}."
    return sentence


def pieces_html(pieces: Sequence[Piece]) -> str:
    """Return the text with a coloured box for each token; its frame shows the pieces without colour."""
    boxes = "".join(_box(place, piece) for place, piece in enumerate(pieces[:_SHOWN]))
    rest = f" … and {len(pieces) - _SHOWN:,} more" if len(pieces) > _SHOWN else ""
    return _BOX.format(pieces=boxes + rest) if pieces else ""


def pieces_table(pieces: Sequence[Piece]) -> Table:
    """Return the first tokens with their ids and bytes."""
    rows = [
        (f"{place} {piece.text}".replace("\n", ""), str(piece.token), piece.raw.hex(" ") or "none", _kind(piece))
        for place, piece in enumerate(pieces[:_LISTED], start=1)
    ]
    title = "The tokens" if len(pieces) <= _LISTED else f"The first {_LISTED} of {len(pieces):,} tokens"
    return Table(title, ("piece", "id", "bytes", ""), rows)


def _box(place: int, piece: Piece) -> str:
    frame = "2px solid" if piece.is_control else "1px dashed" if not piece.is_text else "1px solid"
    style = (
        f"background:{LIGHT_COLOURS[place % len(LIGHT_COLOURS)]};border:{frame} #000;border-radius:3px;unicode-bidi:isolate"
    )
    return f'<span style="{style}">{html.escape(piece.text)}</span>'


def _kind(piece: Piece) -> str:
    return "control token" if piece.is_control else "" if piece.is_text else "part of a character"
