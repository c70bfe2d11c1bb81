"""Exercises of 11_serving."""

import math
import random
from collections.abc import Callable

from labkit.course.exercise import Exercise, Inputs, Mistake


def _requests(generator: random.Random) -> Inputs:
    seconds = [generator.randint(1, 40) / 4 for _ in range(generator.randint(1, 12))]
    return seconds, generator.randint(1, 6)


def _one_by_one(seconds: list[float]) -> list[float]:
    return [sum(seconds[:index]) for index in range(len(seconds))]


def _in_groups(seconds: list[float], n_slots: int) -> list[float]:
    longest = [max(seconds[begin : begin + n_slots]) for begin in range(0, len(seconds), n_slots)]
    return [sum(longest[: index // n_slots]) for index in range(len(seconds))]


def _in_turn(seconds: list[float], n_slots: int) -> list[float]:
    return [sum(seconds[index % n_slots : index : n_slots]) for index in range(len(seconds))]


def _ends(seconds: list[float], n_slots: int) -> list[float]:
    free, found = [0.0] * n_slots, []
    for length in seconds:
        slot = free.index(min(free))
        free[slot] += length
        found.append(free[slot])
    return found


def _cached(generator: random.Random) -> Inputs:
    prompt = [generator.randint(1, 9) for _ in range(generator.randint(1, 12))]
    slots = []
    for _ in range(generator.randint(0, 4)):
        same = prompt[: generator.randint(0, len(prompt))]
        slots.append(same + [generator.randint(1, 9) for _ in range(generator.randint(0, 4))])
    return slots, prompt


def _same(cached: list[int], prompt: list[int], most: int) -> int:
    pairs = list(zip(cached[:most], prompt[:most], strict=False))
    return next((index for index, (one, other) in enumerate(pairs) if one != other), len(pairs))


def _rest(slots: list[list[int]], prompt: list[int], spared: int = 1) -> int:
    return len(prompt) - max((_same(cached, prompt, len(prompt) - spared) for cached in slots), default=0)


def _load(generator: random.Random) -> Inputs:
    return generator.randint(1, 40) / 4, generator.randint(1, 40) / 4, generator.choice((0.5, 0.625, 0.75, 1.0))


def _slots(of: Callable[[float, float, float], float]) -> Callable[[float, float, float], int]:
    return lambda rate, seconds, share: math.ceil(of(rate, seconds, share))


EXERCISES = (
    Exercise(
        name="start_times",
        points=3,
        question="when each request starts, if all arrive at 0 and each takes the slot that is free first.",
        examples=(
            (([4.0, 1.0, 2.0, 1.0], 2), [0.0, 0.0, 1.0, 3.0]),
            (([2.5, 2.0, 2.0], 1), [0.0, 2.5, 4.5]),
            (([3.0, 1.0], 4), [0.0, 0.0]),
            (([5.0, 1.0, 1.0, 1.0, 1.0, 1.0], 3), [0.0, 0.0, 0.0, 1.0, 1.0, 2.0]),
        ),
        inputs=_requests,
        mistakes=(
            Mistake("That is one by one: do the other slots stay empty?", lambda seconds, _: _one_by_one(seconds)),
            Mistake("You wait until all slots are free: does a request need that?", _in_groups),
            Mistake("The slots do not take turns: which one is free first?", _in_turn),
            Mistake("Those are the ends: when does each request start?", _ends),
        ),
        hints=(
            "Step 2 drew it: a new bar begins where the first of the running ones ends.",
            "Keep, for each slot, the time at which it is free. At the start, that is 0 for all.",
            "For each request: find the smallest of these times, note it, and add the request's seconds to it.",
        ),
    ),
    Exercise(
        name="tokens_to_compute",
        points=3,
        question="how many of a prompt's tokens must be computed, if a slot's cache has the beginning of it.",
        examples=(
            (([[5, 6, 7, 8], [5, 6, 1]], [5, 6, 7, 9, 3]), 2),
            (([[5, 6, 7]], [5, 6, 7]), 1),
            (([[4, 6, 7, 8]], [5, 6, 7, 8]), 4),
            (([], [1, 2, 3]), 3),
            (([[9], [1, 2, 9, 4]], [1, 2, 3, 4]), 2),
            (([[1, 9, 9, 9, 9, 9], [1, 2, 3]], [1, 2, 3, 4, 5]), 2),
        ),
        inputs=_cached,
        mistakes=(
            Mistake(
                "The last token of a prompt is always computed: its logits choose the first word of the answer.",
                lambda slots, prompt: _rest(slots, prompt, 0),
            ),
            Mistake(
                "A key and a value depend on all tokens before: after the first difference, nothing can be used.",
                lambda slots, prompt: (
                    len(prompt)
                    - max((sum(a == b for a, b in zip(cached, prompt[:-1], strict=False)) for cached in slots), default=0)
                ),
            ),
            Mistake("Any slot may have the beginning, not only the first.", lambda slots, prompt: _rest(slots[:1], prompt)),
            Mistake(
                "That many are found in the cache: how many are left to compute?",
                lambda slots, prompt: len(prompt) - _rest(slots, prompt),
            ),
        ),
        hints=(
            "Step 4 says what can be found again: a common beginning, and never the whole prompt.",
            "For one slot: compare from the left, and stop at the first token that differs, or one before the prompt's end.",
            "Do that for every slot and keep the longest beginning: which tokens does it leave?",
        ),
    ),
    Exercise(
        name="slots_for",
        points=2,
        question="the fewest slots of which, on average, at most this share is busy.",
        examples=(((2.0, 1.5, 0.75), 4), ((0.5, 8.0, 1.0), 4), ((3.0, 2.5, 0.5), 15), ((0.25, 1.0, 1.0), 1)),
        inputs=_load,
        mistakes=(
            Mistake("That keeps all slots busy: where is the share?", _slots(lambda rate, seconds, share: rate * seconds)),
            Mistake(
                "A smaller share needs more slots, not fewer.", _slots(lambda rate, seconds, share: rate * seconds * share)
            ),
            Mistake(
                "A fraction of a slot serves no one: which way do you round?",
                lambda rate, seconds, share: int(rate * seconds / share),
            ),
            Mistake(
                "Longer requests need more slots, not fewer.", _slots(lambda rate, seconds, share: rate / seconds / share)
            ),
        ),
        hints=(
            "Little's law, step 6, gives the mean number of requests that run at the same time.",
            "With 2 requests per second of 3 seconds each: how many run on average, and what if this is half of the slots?",
            "Divide the mean number by the share; then think about fractions.",
        ),
    ),
)
