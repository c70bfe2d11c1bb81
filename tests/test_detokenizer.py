"""Bytes of tokens become text: whole characters only, and never a stop sequence."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.detokenizer import TextAssembler

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
    """Bytes that are not UTF-8 become U+FFFD, wherever they are cut; half a character at the end is dropped."""
    pieces, _ = _assemble(data, cuts, ())
    whole = data.decode("utf-8", errors="replace")
    joined = "".join(pieces)
    assert whole == joined or whole.removesuffix("\ufffd") == joined
    assert all(piece == piece.encode("utf-8").decode("utf-8") for piece in pieces)


def _reference(text: str, stops: list[str]) -> str:
    """Search the simple way: check after each character whether a stop is complete; cut where the longest one begins."""
    for end in range(1, len(text) + 1):
        complete = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(complete)]
    return text


@given(
    st.text("ab", max_size=30),
    st.lists(st.integers(0, 200), max_size=20),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_the_cut_is_the_same_however_tokens_are_cut(text: str, cuts: list[int], stops: list[str]) -> None:
    """Stops that overlap, contain each other or share a prefix: the result is that of the whole text."""
    pieces, _ = _assemble(text.encode(), cuts, tuple(stops))
    assert "".join(pieces) == _reference(text, stops)


@given(st.binary(max_size=30), st.lists(st.integers(0, 200), max_size=20), st.sampled_from(["\ufffd", "a", "é", "\ufffda"]))
def test_any_bytes_stop_where_their_text_does(data: bytes, cuts: list[int], stop: str) -> None:
    """The same is true for bytes that are not UTF-8, and for their replacement character."""
    pieces, stopped = _assemble(data, cuts, (stop,))
    whole, _ = _assemble(data, [], ())
    expected = _reference("".join(whole), [stop])
    assert "".join(pieces) == expected
    assert stopped == (expected != "".join(whole))


def test_cost_per_token_does_not_grow_with_the_text() -> None:
    """Released text is not searched again: 100,000 tokens with a stop that almost matches need only a moment."""
    text = TextAssembler(("x" * 50 + "y",))
    released = sum(len(text.add(b"x")) for _ in range(100_000))
    assert released + len(text.finish()) == 100_000
