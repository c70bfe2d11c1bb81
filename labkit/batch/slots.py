"""The sequences' slots in the cache.

Each sequence has a separate stream of cells, so that attention reads only its tokens. llama.cpp computes sequences with
consecutive numbers together, and splits the batch at every gap; so the last sequence is moved to where another one ended.

A computed prefix is copied to all sequences that share it: copying a stream takes as long as computing a few tokens.

References
----------
llama.cpp ``src/llama-batch.cpp`` (``split_equal``), ``src/llama-kv-cache.cpp`` (``seq_cp``: a copy between streams always
copies the whole stream; ``seq_rm`` then truncates it to the shared length).
"""

from __future__ import annotations

from typing import Any

from labkit.batch.sequence import Sequence
from labkit.engine.native import C
from labkit.engine.prompt_cache import common_length

WORTH_COPYING = 16  # tokens; computing fewer is about as fast as a copy, and needs no more reads of the weights


class Slots:
    """The cache's streams and their sequences.

    ``shares`` says whether a sequence can be truncated to any length (not if layers have a window or a state), ``can_move``
    whether a whole one can be copied.
    """

    def __init__(self, memory: Any, n_slots: int, *, shares: bool, can_move: bool) -> None:
        self._memory, self._shares, self._can_move = memory, shares, can_move
        self.sequences: list[Sequence | None] = [None] * n_slots
        self._cached: list[list[int]] = [[] for _ in range(n_slots)]

    @property
    def active(self) -> list[tuple[int, Sequence]]:
        """The sequences by slot, in ascending order."""
        return [(slot, sequence) for slot, sequence in enumerate(self.sequences) if sequence is not None]

    @property
    def free(self) -> list[int]:
        """The slots without a sequence."""
        return [slot for slot, sequence in enumerate(self.sequences) if sequence is None]

    def place(self, prompt: list[int]) -> int:
        """Return the free slot for a new sequence."""
        return self.free[0]

    def start(self, slot: int) -> bool:
        """Start the sequence of a slot with a cached prefix, if any; False if it should wait for another sequence's."""
        sequence = self.sequences[slot]
        if sequence is None or sequence.started:
            return True
        prompt = sequence.request.prompt
        own = self._own(slot, prompt)
        source, length, is_there = self._best_neighbour(slot, prompt)
        if length >= own + WORTH_COPYING:
            if not is_there:
                return False
            self._copy(source, slot)
            own = length
        self._cut(slot, own)
        sequence.n_past = sequence.n_shared = own
        sequence.started = True
        return True

    def _own(self, slot: int, prompt: list[int]) -> int:
        """Return how many of a prompt's tokens are in its slot and can be used."""
        return common_length(self._cached[slot], prompt, len(prompt) - 1) if self._shares else 0

    def _best_neighbour(self, slot: int, prompt: list[int]) -> tuple[int, int, bool]:
        """Return the slot that has or will have the longest prefix of a prompt, its length, and whether it is there now."""
        best = (slot, 0, False)
        for other, sequence in enumerate(self.sequences if self._shares else ()):
            if other == slot or (sequence is not None and not sequence.started):
                continue
            there = common_length(self._cached[other], prompt, len(prompt) - 1)
            coming = 0 if sequence is None else common_length(sequence.request.prompt, prompt, len(prompt) - 1)
            if max(there, coming) > best[1] or (there == best[1] and not best[2]):
                best = (other, max(there, coming), there >= coming)
        return best

    def _copy(self, source: int, target: int) -> None:
        C.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._cached[target] = self._cached[source].copy()

    def _cut(self, slot: int, length: int) -> None:
        C.llama_memory_seq_rm(self._memory, slot, length or -1, -1)
        self._cached[slot] = self._cached[slot][:length]

    def computed(self, slot: int, tokens: list[int]) -> None:
        """Record that tokens were added to a slot's stream."""
        if self._shares:
            self._cached[slot] += tokens

    def leave(self, slot: int) -> None:
        """Free a slot; its stream stays until another sequence starts there."""
        self.sequences[slot] = None
        if not self._shares:
            self._cut(slot, 0)

    def close_gaps(self) -> None:
        """Move sequences to where others ended, so that all are computed together."""
        if not self._can_move:
            return
        for source, target in moves([slot for slot, _ in self.active]):
            self._copy(source, target)
            self.sequences[target], self.sequences[source] = self.sequences[source], None
            self._cut(source, 0)


def moves(active: list[int]) -> list[tuple[int, int]]:
    """Return the moves (from, to) that close all gaps between active slots: the last ones move to the first gaps.

    Examples
    --------
    >>> moves([1, 2, 5, 7])
    [(7, 3), (5, 4)]
    """
    taken, found = set(active), []
    while taken and max(taken) - min(taken) >= len(taken):
        source, target = max(taken), next(slot for slot in range(min(taken), max(taken)) if slot not in taken)
        taken = (taken - {source}) | {target}
        found.append((source, target))
    return found
