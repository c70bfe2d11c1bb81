"""Bytes of tokens become text: whole characters only, and never a stop sequence."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.text import TextAssembler

ALPHABET = "abcé🦙\n"


def _assemble(data: bytes, cuts: list[int], stops: tuple[str, ...]) -> tuple[list[str], bool]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    text = TextAssembler(stops)
    pieces = []
    for start, end in itertools.pairwise(edges):
        pieces.append(text.add(data[start:end]))
        if text.stopped:
            break
    return [*pieces, text.finish()], text.stopped


@given(st.text(ALPHABET, max_size=40), st.lists(st.integers(0, 200), max_size=20))
def test_any_cut_gives_the_same_text(text: str, cuts: list[int]) -> None:
    """However the bytes are cut into tokens, the pieces joined are the text."""
    pieces, stopped = _assemble(text.encode(), cuts, ())
    assert "".join(pieces) == text
    assert not stopped


@given(
    st.text(ALPHABET, max_size=40),
    st.lists(st.integers(0, 200), max_size=20),
    st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stops_end_the_text_wherever_tokens_are_cut(text: str, cuts: list[int], stops: list[str]) -> None:
    """No stop sequence is in the result, and nothing before the first one is lost."""
    pieces, stopped = _assemble(text.encode(), cuts, tuple(stops))
    result = "".join(pieces)
    assert text.startswith(result)
    assert not any(stop in result for stop in stops)
    assert stopped == any(stop in text for stop in stops)
    if not stopped:
        assert result == text
    else:
        assert any(text.startswith(stop, len(result)) for stop in stops)


@given(st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=20))
def test_any_bytes_give_sound_text(data: bytes, cuts: list[int]) -> None:
    """Bytes that are no UTF-8 become U+FFFD, cut anywhere; half a character at the end is dropped."""
    pieces, _ = _assemble(data, cuts, ())
    whole = data.decode("utf-8", errors="replace")
    joined = "".join(pieces)
    assert whole == joined or whole.removesuffix("\ufffd") == joined
    assert all(piece == piece.encode("utf-8").decode("utf-8") for piece in pieces)
