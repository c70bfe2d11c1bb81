"""What a context has computed already, so that a text with the same beginning is not read again.

The same tokens computed in other groups give slightly different numbers: a piece of a prompt goes through matrix products,
one token through products of a matrix and a vector. So a cache is used again only from places where a computation began.
Then the same call gives the same text each time, and:

- a *text* depends on nothing that was asked before: prompts are always computed in pieces of the same size, and only whole
  pieces are used again;
- a *chat* continues right behind what was generated, so that neither the history nor the model's own answer is read again.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence


class PromptCache:
    """The tokens in a context's cache, and where computations began; ``step`` tokens of a prompt are computed together.

    Examples
    --------
    >>> cache = PromptCache(step=2)
    >>> cache.add_prompt([1, 2, 3, 4, 5])
    >>> cache.reusable([1, 2, 3, 4, 5, 6, 7]), cache.reusable([1, 2, 9, 4]), cache.reusable([1, 2, 3, 4, 5])
    (4, 2, 4)

    A chat continues where generating ended:

    >>> cache.add_generated([6, 7])
    >>> cache.reusable([1, 2, 3, 4, 5, 6, 7, 8]), cache.reusable([1, 2, 3, 4, 5, 6, 7, 8], chat=True)
    (4, 7)
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.tokens: list[int] = []
        self._begins: list[int] = []  # where computations began, in order
        self._whole = 0  # tokens in whole pieces of one size from the beginning

    def clear(self) -> None:
        """Forget everything."""
        self.tokens, self._begins, self._whole = [], [], 0

    def reusable(self, prompt: Sequence[int], *, chat: bool = False) -> int:
        """Return how many of a prompt's tokens need not be computed again; never all of them."""
        most = min(len(self.tokens), len(prompt) - 1)
        same = next((index for index in range(most) if prompt[index] != self.tokens[index]), most)
        if not chat:
            return min(same, self._whole) // self.step * self.step
        if same == len(self.tokens):
            return same
        return self._begins[at - 1] if (at := bisect.bisect_right(self._begins, same)) else 0

    def cut(self, n_tokens: int) -> None:
        """Keep the first tokens."""
        del self.tokens[n_tokens:], self._begins[bisect.bisect_left(self._begins, n_tokens) :]
        self._whole = min(self._whole, n_tokens)

    def add_prompt(self, tokens: Sequence[int]) -> None:
        """Note the tokens of a prompt that were computed, in pieces of ``step``, behind those that are there."""
        start, end = len(self.tokens), len(self.tokens) + len(tokens)
        self._begins += range(start, end, self.step)
        self.tokens += tokens
        if self._whole == start:
            self._whole += len(tokens) // self.step * self.step

    def add_generated(self, tokens: Sequence[int]) -> None:
        """Note tokens that were computed one by one."""
        self._begins += range(len(self.tokens), len(self.tokens) + len(tokens))
        self.tokens += tokens
