"""Computed prefixes, found again: in the slots, and in a store for those that had to leave their slot.

A slot keeps its tokens until another sequence starts there. Before that, their state is copied to the store. It holds only
the tokens that are used, where a slot has room for the whole context, and drops what was not used for longest.

Where layers have a window or a recurrent state, a sequence cannot be cut. Then only the store keeps it, and only a prompt
that begins with all of it, such as the next turn of a conversation, finds it again.

References
----------
llama.cpp ``src/llama-kv-cache.cpp`` (``state_write``, ``state_read``).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from labkit.batch.slots import Slots
from labkit.engine.native import C
from labkit.engine.prompt_cache import common_length

_WORTH_KEEPING = 64  # tokens; fewer are computed about as fast as their state is copied
_State = tuple[list[int], Any]  # tokens, and their state as an array of bytes


class PrefixStore:
    """States of sequences, the last used one at the end; at most ``budget_bytes`` together."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes, self.n_bytes = budget_bytes, 0
        self._states: list[_State] = []

    def __len__(self) -> int:
        return len(self._states)

    def find(self, prompt: list[int], *, whole: bool) -> tuple[int, _State | None]:
        """Return the state with the longest prefix of a prompt, all of the state if ``whole``, and the prefix's length."""
        lengths = [common_length(tokens, prompt, len(prompt) - 1) for tokens, _ in self._states]
        if whole:
            lengths = [n if n == len(tokens) else 0 for n, (tokens, _) in zip(lengths, self._states, strict=True)]
        best = max(lengths, default=0)
        return best, self._states[lengths.index(best)] if best else None

    def use(self, state: _State) -> None:
        """Note that a state was used."""
        self._states = [other for other in self._states if other is not state] + [state]

    def has(self, tokens: list[int]) -> bool:
        """Whether a state begins with all these tokens."""
        return any(other[: len(tokens)] == tokens for other, _ in self._states)

    def add(self, tokens: list[int], data: Any) -> None:
        """Keep a state that fits, instead of those that it contains and those not used for longest."""
        if data.nbytes > self.budget_bytes:
            return
        self._states = [(other, kept) for other, kept in self._states if other != tokens[: len(other)]]
        self._states.append((tokens, data))
        self.n_bytes = sum(kept.nbytes for _, kept in self._states)
        while self.n_bytes > self.budget_bytes:
            self.n_bytes -= self._states.pop(0)[1].nbytes


class KeptSlots(Slots):
    """Slots that find prefixes again, also those of sequences that ended long ago."""

    def __init__(self, ctx: Any, n_slots: int, store: PrefixStore, *, shares: bool, can_move: bool) -> None:
        super().__init__(C.llama_get_memory(ctx), n_slots, shares=shares, can_move=can_move)
        self._ctx, self._store = ctx, store
        # llama.cpp copies between slots at the next decode: until then a target has old data, and a source must keep its.
        self._sources: set[int] = set()
        self._targets: set[int] = set()

    def place(self, prompt: list[int]) -> int:
        """Return a free slot next to the active ones; of equally near ones, the one with most of the prompt in it."""
        taken = [slot for slot, _ in self.active]

        def cost(slot: int) -> tuple[int, int, int]:
            distance = max(min(taken) - slot, slot - max(taken), 0) if taken else 0
            return distance, -common_length(self._cached[slot], prompt, len(prompt) - 1), len(self._cached[slot])

        return min(self.free, key=cost)

    def start(self, slot: int) -> bool:
        """Start the sequence of a slot as `Slots` does, with a prefix from the store if that is longer."""
        sequence = self.sequences[slot]
        if sequence is not None and not sequence.started:
            if slot in self._sources | self._targets:
                return False
            self._recall(slot, sequence.request.prompt)
        return super().start(slot)

    def computed(self, slot: int, tokens: list[int]) -> None:
        """Record that tokens were added to a slot's stream, also if the sequence cannot be cut."""
        self._cached[slot] += tokens

    def decoded(self) -> None:
        """Note that a decode was done, and with it all copies."""
        self._sources.clear()
        self._targets.clear()

    def clear(self) -> None:
        """Forget the slots' tokens, after a computation that failed."""
        self.decoded()
        C.llama_memory_clear(self._memory, True)
        self._cached = [[] for _ in self._cached]

    def _recall(self, slot: int, prompt: list[int]) -> None:
        length, state = self._store.find(prompt, whole=not self._shares)
        here = max(self._own(slot, prompt), self._best_neighbour(slot, prompt)[1])
        if state is None or length < here + _WORTH_KEEPING:
            return
        tokens, data = state
        self._store.use(state)
        self._save(slot, 0)
        if C.llama_state_seq_set_data(self._ctx, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), data.nbytes, slot):
            self._cached[slot] = tokens.copy()
        else:  # it was refused, and the slot is empty now
            C.llama_memory_seq_rm(self._memory, slot, -1, -1)
            self._cached[slot] = []

    def _own(self, slot: int, prompt: list[int]) -> int:
        length = common_length(self._cached[slot], prompt, len(prompt) - 1)
        return length if self._shares or length == len(self._cached[slot]) else 0

    def _copy(self, source: int, target: int) -> None:
        self._save(target, 0)
        super()._copy(source, target)
        self._sources.add(source)
        self._targets.add(target)

    def _cut(self, slot: int, length: int) -> None:
        self._save(slot, length)
        super()._cut(slot, length)

    def _save(self, slot: int, length: int) -> None:
        """Copy a slot's state to the store before tokens after the first ``length`` are lost, unless others have them."""
        tokens = self._cached[slot]
        if slot in self._targets or len(tokens) < max(length, 1) + _WORTH_KEEPING or not self._store.budget_bytes:
            return
        others = (cached for other, cached in enumerate(self._cached) if other != slot)
        if self._store.has(tokens) or any(cached[: len(tokens)] == tokens for cached in others):
            return
        size = int(C.llama_state_seq_get_size(self._ctx, slot))
        if 0 < size <= self._store.budget_bytes:
            data = np.empty(size, np.uint8)
            pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            if C.llama_state_seq_get_data(self._ctx, pointer, size, slot) == size:
                self._store.add(tokens.copy(), data)
