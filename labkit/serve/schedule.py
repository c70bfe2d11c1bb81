"""The schedule of continuous batching, as arithmetic: who waits, whose prompt is read, who gets tokens, and when."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from labkit.errors import ArgumentError

# Tokens of prompts per step on a CPU: more slow down the running answers, fewer all answers together, because prompts that
# were read together also write together. 16 clients get 5 % more with 512 than with 256 (benchmarks/serving.py).
PROMPT_STEP = 512


@dataclasses.dataclass(frozen=True)
class User:
    """A request: when it arrives, and the tokens of its prompt and its answer."""

    arrives_s: float
    n_prompt: int
    n_answer: int


@dataclasses.dataclass(frozen=True)
class Served:
    """When a request arrived, got a slot, got its first token and its last one, on one clock; and its tokens."""

    arrived_s: float
    started_s: float
    first_s: float
    ended_s: float
    n_tokens: int

    @property
    def first_token_s(self) -> float:
        """The time to the first token."""
        return self.first_s - self.arrived_s

    @property
    def total_s(self) -> float:
        """The time in the server."""
        return self.ended_s - self.arrived_s

    @property
    def step_s(self) -> float:
        """The mean time between two tokens; 0 for a single one."""
        return (self.ended_s - self.first_s) / (self.n_tokens - 1) if self.n_tokens > 1 else 0.0


@dataclasses.dataclass(frozen=True)
class StepCost:
    """The time of a step: reading the weights, and computing each token of a prompt or an answer."""

    step_s: float
    prompt_s: float
    answer_s: float

    @classmethod
    def fit(cls, alone: Served, n_prompt: int, together: Sequence[Served]) -> StepCost:
        """Return the cost measured with one user, whose prompt has ``n_prompt`` tokens, and with several at a time.

        >>> one, each = Served(0, 0, 0.4, 0.52, 11), Served(0, 0, 0, 0.18, 11)
        >>> StepCost.fit(one, 195, [each] * 4)
        StepCost(step_s=0.01, prompt_s=0.002, answer_s=0.002)
        """
        alone_s, together_s = alone.step_s, float(np.median([one.step_s for one in together]))
        answer_s = min(max(together_s - alone_s, 0.0) / max(1, len(together) - 1), alone_s)
        reading_s = alone.first_s - alone.started_s - math.ceil(n_prompt / PROMPT_STEP) * (alone_s - answer_s)
        return cls(round(alone_s - answer_s, 6), round(max(reading_s, 0.0) / n_prompt, 6), round(answer_s, 6))


def plan(
    users: Iterable[User], n_slots: int, cost: StepCost, *, joins: bool = True, prompt_step: int = PROMPT_STEP
) -> list[Served]:
    """Predict the schedule of `serve_model`: a step has a token of each answer, and some tokens of the prompts.

    Parameters
    ----------
    users : iterable of User
        In the order of their arrival.
    n_slots : int
        Requests computed together; the others wait.
    cost : StepCost
        The times of this machine.
    joins : bool
        False: requests start only together, when all slots are free (batches without joining).
    prompt_step : int
        The tokens of prompts in a step; a slot without an answer adds one.

    Returns
    -------
    list of Served
        One per user.

    Notes
    -----
    Of prompts that start in the same step, the first user's is read first; the server goes by the number of their slot.

    Examples
    --------
    Two users, 10 ms per step and nothing per token; with one slot, the second one waits:

    >>> users = [User(0.0, 100, 3), User(0.0, 100, 3)]
    >>> [round(one.ended_s, 2) for one in plan(users, 2, StepCost(0.01, 0.0, 0.0), prompt_step=200)]
    [0.03, 0.03]
    >>> [round(one.ended_s, 2) for one in plan(users, 1, StepCost(0.01, 0.0, 0.0), prompt_step=200)]
    [0.03, 0.06]
    """
    if n_slots < 1 or prompt_step < 1:
        raise ArgumentError(f"n_slots={n_slots}, prompt_step={prompt_step}: both must be at least 1")
    users = list(users)
    waiting = deque(sorted(range(len(users)), key=lambda index: users[index].arrives_s))
    active: list[int] = []
    unread, written = [user.n_prompt for user in users], [0] * len(users)
    started, first, ended = ([0.0] * len(users) for _ in range(3))
    now_s = 0.0
    while waiting or active:
        if not active:
            now_s = max(now_s, users[waiting[0]].arrives_s)
        if joins or not active:
            while waiting and len(active) < n_slots and users[waiting[0]].arrives_s <= now_s:
                started[waiting[0]] = now_s
                active.append(waiting.popleft())
        n_answer = sum(unread[index] == 0 for index in active)
        room = at_most = prompt_step + n_slots - n_answer
        for index in active:
            if unread[index]:
                unread[index], room = max(0, unread[index] - room), max(0, room - unread[index])
        now_s += cost.step_s + n_answer * cost.answer_s + (at_most - room) * cost.prompt_s
        for index in [index for index in active if not unread[index]]:
            written[index] += 1
            first[index] = first[index] or now_s
            if written[index] == users[index].n_answer:
                ended[index] = now_s
                active.remove(index)
    times = zip(users, started, first, ended, strict=True)
    return [Served(user.arrives_s, start_s, first_s, end_s, user.n_answer) for user, start_s, first_s, end_s in times]


def tokens_per_second(served: Sequence[Served]) -> float:
    """Return all answers' tokens per second, from the first arrival to the last end."""
    return sum(one.n_tokens for one in served) / _span_s(served)


def first_token_s(served: Sequence[Served], share: float) -> float:
    """Return the time within which this share of the users got their first token."""
    return float(np.quantile([one.first_token_s for one in served], share))


def _span_s(served: Sequence[Served]) -> float:
    return max(one.ended_s for one in served) - min(one.arrived_s for one in served)
