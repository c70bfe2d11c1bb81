"""The tokenizer explorer: pieces, ids and bytes are the tokenizer's, and any text is shown safely."""

from collections.abc import Iterator

import pytest

import labkit
from labkit.widgets import explore
from labkit.widgets.tokenizer import Piece, TokenizerExplorer, cut_into_pieces, describe, pieces_html, pieces_table


@pytest.fixture(scope="module")
def model() -> Iterator[labkit.Model]:
    with labkit.load_model(n_ctx=1024) as loaded:
        yield loaded


@pytest.mark.parametrize("text", ["The quick brown fox", "了狗 é", "a\n\tb  c", "<|im_end|>", ""])
def test_pieces_are_those_of_the_tokenizer(model: labkit.Model, text: str) -> None:
    """Ids are llama-cpp-python's, the bytes join to the text, and an ordinary text has no control token."""
    with model.vocabulary() as vocabulary:
        pieces = cut_into_pieces(vocabulary, text)
    assert [piece.token for piece in pieces] == model.tokenize(text.encode(), add_bos=False, special=False)
    assert b"".join(piece.raw for piece in pieces) == text.encode()
    assert not any(piece.is_control for piece in pieces)


def test_the_view_follows_the_text(model: labkit.Model) -> None:
    """Typing and the control-token box change the sentence and the pieces; every token has its row."""
    explorer = explore("tokenizer", model, text="狗")
    assert isinstance(explorer, TokenizerExplorer)
    assert "3 tokens for 1 character (3 bytes)" in explorer.view.sentence
    assert "Tokens that are parts of characters: 3." in explorer.view.sentence
    explorer.controls["text"].value = "Hi<|im_end|>"
    assert explorer.wait()
    assert explorer.view.sentence.startswith("8 tokens for 12 characters (12 bytes): 1.50 characters per token")
    explorer.controls["parse_special"].value = True
    assert explorer.wait()
    assert explorer.view.sentence.startswith("2 tokens")
    assert explorer.view.sentence.endswith("Control tokens: 1.")
    assert [row[1] for row in explorer.view.tables[0].rows] == [str(piece.token) for piece in explorer.pieces]
    explorer.controls["text"].value = ""
    assert explorer.wait()
    assert explorer.view.sentence == "No text, no tokens."
    assert explorer.message == ""
    explorer.close()


def test_pieces_are_visible_and_escaped() -> None:
    """Spaces, line ends and parts of characters are visible; HTML and direction characters of a text have no effect."""
    raw = [b" a", b"\n", b"\xe7", b"<b>&", "\u202e".encode()]
    pieces = [*(Piece(number, piece, "") for number, piece in enumerate(raw)), Piece(9, b"", "<|x|>")]
    page = pieces_html(pieces)
    assert page.count("<span") == len(pieces)
    for shown in ("␣a", "⏎", "\\xe7", "&lt;b&gt;&amp;", "\\u202e", "&lt;|x|&gt;"):
        assert shown in page
    assert "<b>" not in page
    kinds = [row[3] for row in pieces_table(pieces).rows]
    assert kinds == ["", "", "part of a character", "", "", "control token"]
    assert "1px dashed" in page.split("<span")[3]  # a part of a character, without colour
    assert "2px solid" in page.split("<span")[6]


def test_a_long_text_shows_its_first_tokens() -> None:
    """The page has at most 1,000 pieces and 200 rows, and reports how many more there are."""
    pieces = [Piece(1, b"a", "a")] * 1500
    assert pieces_html(pieces).count("<span") == 1000
    assert "and 500 more" in pieces_html(pieces)
    assert (len(pieces_table(pieces).rows), pieces_table(pieces).title) == (200, "The first 200 of 1,500 tokens")
    assert describe("a" * 1500, pieces, 6000).endswith("25 % of a context of 6,000.")
