"""Bytes of tokens -> text: whole characters only, and never a stop sequence."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextAssembler:
    r"""Join the bytes of tokens into text, incrementally.

    A token may contain part of a character, and a stop sequence may be split over several tokens. So bytes are decoded
    incrementally, and text that could be the beginning of a stop sequence is held back until that is decided.
    Each call looks only at the new and the held text, so the cost per token does not grow with the text.

    Parameters
    ----------
    stops : tuple of str
        Texts that end the generation; none of them appears in the result.

    Examples
    --------
    >>> text = TextAssembler(("END",))
    >>> text.add(b"caf\xc3"), text.add(b"\xa9 E"), text.add(b"N"), text.add(b"D."), text.stopped
    ('caf', 'é ', '', '', True)
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self.stops = stops
        self.stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def add(self, piece: bytes, mark: str = "") -> str:
        """Add a token's bytes, behind a character that marks it; return the text that is now certain."""
        text = mark + self._decoder.decode(piece)
        if not self.stops:
            return text
        self._held += text
        # The first complete stop ends the text, however the bytes are split; of several, the one that began first.
        found = [(at + len(stop), at) for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found)[1])
        return self._release(len(self._held) - n_undecided(self._held, self.stops))

    def finish(self) -> str:
        """Return the held text; an incomplete character at the end is dropped."""
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text


def n_undecided(text: str, marks: Sequence[str]) -> int:
    """Return the length of the longest end of a text that may be the beginning of a mark.

    Examples
    --------
    >>> n_undecided("one E", ("END",)), n_undecided("END", ("END",))
    (1, 0)
    """
    longest = min(len(text), max(map(len, marks)) - 1)
    return next((n for n in range(longest, 0, -1) if any(mark.startswith(text[-n:]) for mark in marks)), 0)
