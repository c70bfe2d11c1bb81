"""Users of a server, in threads: what `labkit.serve.schedule` predicts, measured."""

from __future__ import annotations

import json
import random
import time
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from labkit.serve.schedule import Served, StepCost, User

_WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state", "group",
)  # fmt: skip


def some_text(n_words: int, seed: int) -> str:
    """Return words in a random order, about one token each; two seeds share no long prefix."""
    return " ".join(random.Random(seed).choices(_WORDS, k=n_words))  # noqa: S311


def ask(url: str, prompt: str, max_tokens: int, **options: Any) -> dict[str, Any]:
    """Send a prompt to ``/v1/completions`` and return the answer's JSON, with the standard library."""
    data = json.dumps({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **options}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data, {"Content-Type": "application/json"})  # noqa: S310  # http
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
    return found


def measure_users(url: str, users: Iterable[User], *, seed: int = 0) -> list[Served]:
    """Send each user's request when it is due, and return when it was served.

    Prompts are random words, so no two users share one. An answer that ends early has fewer tokens than planned. The server
    reports the times of the queue, the prompt and the answer; arrival and end are the client's.
    """
    users = list(users)
    begin_s = time.perf_counter()

    def one(number: int, user: User) -> Served:
        time.sleep(max(0.0, begin_s + user.arrives_s - time.perf_counter()))
        arrived_s = time.perf_counter() - begin_s
        usage = ask(url, some_text(user.n_prompt, 1000 * seed + number), user.n_answer)["usage"]
        ended_s, times = time.perf_counter() - begin_s, usage["timings"]
        started_s = arrived_s + times["queue_s"]
        return Served(arrived_s, started_s, started_s + times["prefill_s"], ended_s, usage["completion_tokens"])

    with ThreadPoolExecutor(max(1, len(users))) as pool:
        return list(pool.map(one, range(len(users)), users))


def measure_cost(url: str, n_together: int, *, n_prompt: int = 128, n_answer: int = 24) -> StepCost:
    """Measure the time of a step: with one user, and with ``n_together`` users."""
    ask(url, "Warm up.", 4)
    (alone,) = measure_users(url, [User(0.0, n_prompt, n_answer)], seed=998)
    return StepCost.fit(alone, n_prompt, measure_users(url, [User(0.0, 8, n_answer)] * n_together, seed=999))
