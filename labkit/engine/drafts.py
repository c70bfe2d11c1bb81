"""What a text may go on with: tokens that followed the same tokens before; and how many of them are worth a try."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from statistics import median

__all__ = ["SIZES", "Costs", "Pace", "PromptLookup"]

# Tokens of a decode that verifies: the last token and its draft. Few, as each is checked before it is trusted; the engine's
# kernels compute four or sixteen rows at a time, and up to three as they compute one.
SIZES = (3, 8, 16)
_LONGEST, _SHORTEST = 3, 2  # tokens that must be the same
_MATCH_LIMIT = 64


class PromptLookup:
    """Find where the last tokens occurred before, in constant time a token.

    Parameters
    ----------
    tokens : sequence of int

    References
    ----------
    A. Saxena, "Prompt Lookup Decoding", 2023; llama.cpp ``examples/lookup``.

    Examples
    --------
    >>> PromptLookup([1, 2, 3, 4, 5, 1, 2, 3]).draft(3)
    [4, 5, 1]
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # some tokens -> where the last place but the end goes on
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token."""
        end = len(self._tokens)
        for length in range(_SHORTEST, min(_LONGEST, end) + 1):
            self._after[tuple(self._tokens[-length:])] = end
        self._tokens.append(token)

    def draft(self, most: int) -> list[int]:
        """Return up to ``most`` tokens that followed the longest of the last tokens, where these occurred last.

        A place that reaches into the end goes on with its own draft: what repeats is foretold to repeat.
        """
        start = self._start()
        if start is None:
            return []
        draft: list[int] = []
        for index in range(start, start + most):
            draft.append(self._tokens[index] if index < len(self._tokens) else draft[index - len(self._tokens)])
        return draft

    def match(self) -> int:
        """Return how many of the last tokens are the same at the place that a draft is taken from, up to 64."""
        start, tokens = self._start(), self._tokens
        if start is None:
            return 0
        end, most = len(tokens), min(start, _MATCH_LIMIT)
        return next((i for i in range(most) if tokens[start - 1 - i] != tokens[end - 1 - i]), most)

    def _start(self) -> int | None:
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            if len(self._tokens) > length and (start := self._after.get(tuple(self._tokens[-length:]))) is not None:
                return start
        return None


class Costs:
    """What decodes take on this machine: several tokens against one, the median of the last few of each."""

    def __init__(self) -> None:
        self._single: deque[float] = deque(maxlen=7)
        self._ratios: dict[int, deque[float]] = {}

    def single(self, seconds: float) -> None:
        """Note the time of a decode of one token."""
        self._single.append(seconds)

    def several(self, size: int, seconds: float) -> None:
        """Note the time of a decode of ``size`` tokens."""
        if self._single:
            self._ratios.setdefault(size, deque(maxlen=5)).append(seconds / median(self._single))

    def ratio(self, size: int) -> float:
        """Return the time of a decode of ``size`` tokens, in decodes of one; guessed until it was measured."""
        if size in self._ratios:
            return median(self._ratios[size])
        smaller = [known for known in self._ratios if known < size]
        if smaller:
            return self.ratio(max(smaller)) * math.pow(size / max(smaller), 0.8)
        return 1 + 0.15 * (size - 1)


class Pace:
    """Choose how many tokens to verify, from what decodes cost and how many drafted tokens were accepted so far.

    With a chance p that a drafted token is accepted after those before it were, a decode of n tokens gives
    1 + p + … + p^(n-1) tokens in the time of ``costs.ratio(n)`` single ones. Where that pays for no n, drafting rests: for
    16 tokens, then 32, … 256, with one try of the least draft between, or at once where a long passage repeats.

    Examples
    --------
    >>> pace = Pace(Costs())
    >>> pace.size(SIZES, match=3), pace.size(SIZES, match=5)
    (0, 3)
    >>> for _ in range(3):
    ...     pace.verified(3, n_accepted=2)
    >>> pace.size(SIZES, match=3), pace.size(SIZES, match=11)
    (3, 16)
    >>> for _ in range(8):
    ...     pace.verified(16, n_accepted=0)
    >>> pace.size(SIZES, match=3)
    0
    """

    PAYS = 1.05
    UNTRIED = 1.25  # what a size must promise over the others before it is worth its check
    FIRST_PAUSE, LAST_PAUSE = 16, 256
    LONG = 5  # tokens of a match that are worth a try at any time, or a longer draft

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._accepted, self._tried = 0.65, 1.0  # as if some had been: recent ones count most
        self._rest = self._pause = self.FIRST_PAUSE
        self._long = self.LONG

    @property
    def rests(self) -> bool:
        """Whether drafting does not pay at present."""
        return self._pause > self.FIRST_PAUSE

    def size(self, sizes: Sequence[int], match: int, checked: Collection[int] = SIZES) -> int:
        """Return the tokens to verify, one of ``sizes`` in ascending order; 0 is no draft.

        ``checked`` are those that need no check, which costs as much again.
        """
        if self._rest > 0:
            self._rest -= 1
            if match < self._long:
                return 0
        if not sizes or match < self.LONG:  # what has just gone another way may do so again
            return sizes[0] if sizes else 0
        gains = {size: self._gain(size) / (1 if size in checked else self.UNTRIED) for size in sizes}
        best = max(sizes, key=lambda size: gains[size])
        return best if gains[best] >= self.PAYS else sizes[0]

    def verified(self, size: int, n_accepted: int) -> None:
        """Take note of what came of a draft."""
        self._accepted = 0.6 * self._accepted + n_accepted
        self._tried = 0.6 * self._tried + n_accepted + (n_accepted < size - 1)
        if max(map(self._gain, SIZES)) >= self.PAYS:
            self._rest, self._pause, self._long = 0, self.FIRST_PAUSE, self.LONG
            return
        if self._rest > 0:  # it was tried for its long match
            self._long = min(2 * self._long, _MATCH_LIMIT)
        self._rest, self._pause = self._pause, min(2 * self._pause, self.LAST_PAUSE)

    def _gain(self, size: int) -> float:
        chance = self._accepted / self._tried
        return sum(chance**index for index in range(size)) / self._costs.ratio(size)
