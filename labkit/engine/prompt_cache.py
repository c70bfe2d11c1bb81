"""The tokens that a context has computed, so that a common prefix is not computed again.

The same tokens computed in different batches give slightly different logits: a piece of a prompt needs matrix products, one
token products of a matrix and a vector. So a cache is reused only up to positions where a computation began. Then the same
call always gives the same text, and:

- a *text* does not depend on earlier calls: prompts are always computed in pieces of the same size, and only complete
  pieces are reused;
- a *chat* continues directly after the generated text, so neither the history nor the model's answer is computed again.
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

    A chat continues where the generation ended:

    >>> cache.add_generated([6, 7])
    >>> cache.reusable([1, 2, 3, 4, 5, 6, 7, 8]), cache.reusable([1, 2, 3, 4, 5, 6, 7, 8], chat=True)
    (4, 7)
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.tokens: list[int] = []
        self._begins: list[int] = []  # where computations began, in order
        self._whole = 0  # tokens in complete pieces of one size, from the start

    def clear(self) -> None:
        """Forget everything."""
        self.tokens, self._begins, self._whole = [], [], 0

    def reusable(self, prompt: Sequence[int], *, chat: bool = False) -> int:
        """Return how many of a prompt's tokens need not be computed again; never all of them."""
        same = common_length(self.tokens, prompt, len(prompt) - 1)
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
        """Append the tokens of a prompt that were computed in pieces of ``step``."""
        start, end = len(self.tokens), len(self.tokens) + len(tokens)
        self._begins += range(start, end, self.step)
        self.tokens += tokens
        if self._whole == start:
            self._whole += len(tokens) // self.step * self.step

    def add_generated(self, tokens: Sequence[int]) -> None:
        """Append tokens that were computed one by one."""
        self._begins += range(len(self.tokens), len(self.tokens) + len(tokens))
        self.tokens += tokens


def common_length(first: Sequence[int], second: Sequence[int], most: int) -> int:
    """Return the length of the common prefix of two sequences, up to ``most``.

    Examples
    --------
    >>> common_length([1, 2, 3, 4], [1, 2, 4, 4], 3)
    2
    """
    most = min(most, len(first), len(second))
    if first[:most] == second[:most]:
        return max(most, 0)
    return next(index for index in range(most) if first[index] != second[index])
