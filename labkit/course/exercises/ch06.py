"""Exercises of 06_memory."""

from __future__ import annotations

import random

from labkit.course.exercise import Exercise, Inputs, Mistake

__all__ = ["EXERCISES"]

_CELLS = 256
_BUDGET = (1_000_000, 400_000, 1_000, 8_192)


def _heads(generator: random.Random) -> Inputs:
    n_heads_kv = generator.choice((1, 2, 3, 4, 8, 16))
    key = generator.choice((64, 80, 96, 128, 192, 256))
    value = generator.choice((key, 128, 512))
    return generator.randint(1, 90), n_heads_kv * generator.choice((1, 2, 3, 4, 8)), n_heads_kv, key, value


def _results(generator: random.Random) -> Inputs:
    return ([generator.randint(1, 500) for _ in range(generator.randint(1, 12))],)


def _budget(generator: random.Random) -> Inputs:
    fixed = generator.randint(1_000_000, 5_000_000_000)
    a_token = generator.randint(500, 600_000)
    groups = generator.randint(2, 128)
    within = generator.randint(1, groups - 1)
    fitting = generator.choice((within, within, within, groups + generator.randint(1, 200), -generator.randint(2, 50)))
    beyond = generator.choice((-1, 0, *(generator.randint(1, 255 * a_token) for _ in range(4))))
    return max(0, fixed + fitting * _CELLS * a_token + beyond), fixed, a_token, _CELLS * groups


def _row(layers: int, heads: int, key: int, value: int, size: int = 2) -> int:
    return layers * heads * (key + value) * size


def _context(budget: int, fixed: int, a_token: int, trained: int) -> int:
    return min(trained, (budget - fixed) // a_token // _CELLS * _CELLS)


EXERCISES = (
    Exercise(
        name="token_cache",
        points=2,
        question="the bytes that one token takes in an F16 cache.",
        examples=(
            ((30, 9, 3, 64, 64), 23_040),
            ((32, 32, 32, 128, 128), 524_288),
            ((32, 32, 8, 128, 128), 131_072),
            ((27, 16, 16, 192, 128), 276_480),
        ),
        inputs=_heads,
        mistakes=(
            Mistake(
                "There are two kinds of heads: are those of the questions kept in the cache?",
                lambda layers, heads, kv, key, value: _row(layers, heads, key, value),
            ),
            Mistake("Keys alone are half of a memory.", lambda layers, heads, kv, key, value: _row(layers, kv, key, 0)),
            Mistake("Are a value's numbers always as many as a key's?", lambda n, heads, kv, key, _: _row(n, kv, key, key)),
            Mistake(
                "You have counted numbers: how large is one?",
                lambda layers, heads, kv, key, value: _row(layers, kv, key, value, 1),
            ),
            Mistake(
                "So much it would be in F32: the cache has another type.",
                lambda layers, heads, kv, key, value: _row(layers, kv, key, value, 4),
            ),
            Mistake("Who keeps keys and values: the model, or each layer?", lambda n, h, kv, key, v: _row(1, kv, key, v)),
        ),
        hints=(
            "Step 2 has the formula for the cache of all cells: what remains of it for a single token?",
            "Five numbers are given, and the formula needs four of them: which one has no place in it?",
            "Count the numbers that one layer keeps of a token, then those of all layers: what do they take in F16?",
        ),
    ),
    Exercise(
        name="least_rooms",
        points=2,
        question="the rooms that are needed at once, when a result is needed until the next one is made of it.",
        examples=((([100, 100, 150, 300],), 450), (([300, 10, 200, 90],), 310), (([7],), 7), (([5, 80, 80, 5],), 160)),
        inputs=_results,
        mistakes=(
            Mistake("Is the first result still needed when the last one is made?", sum),
            Mistake("Something must be there that the largest result is made of, or that is made of it.", max),
            Mistake("Are the last two always the worst two?", lambda sizes: sum(sizes[-2:])),
            Mistake("Twice the largest is safe, and more than needed.", lambda sizes: 2 * max(sizes)),
            Mistake("The two largest need not be neighbours.", lambda sizes: sum(sorted(sizes)[-2:])),
        ),
        hints=(
            "Step 3 plays results through one after another: which of them must be there while the next one is made?",
            "Write the sizes 10, 40 and 20 in a row: what is there while the second one is made, and what while the third?",
            "Each moment holds two neighbours of the row: compare all moments, and think of a row with a single result.",
        ),
    ),
    Exercise(
        name="context_that_fits",
        points=3,
        question="the longest context, in tokens, that fits into the budget and that the model was trained for.",
        examples=(
            (_BUDGET, 512),
            ((656_000, 400_000, 1_000, 8_192), 256),
            ((655_999, 400_000, 1_000, 8_192), 0),
            ((100_000_000, 400_000, 1_000, 8_192), 8_192),
            ((300_000, 400_000, 1_000, 8_192), 0),
        ),
        inputs=_budget,
        mistakes=(
            Mistake(
                "llama.cpp takes whole groups of cells: would it round this context up?",
                lambda budget, fixed, a_token, trained: max(0, min(trained, (budget - fixed) // a_token)),
            ),
            Mistake(
                "Rounded up it costs more than there is.",
                lambda budget, fixed, a_token, trained: max(
                    0, min(trained, -(-((budget - fixed) // a_token) // _CELLS) * _CELLS)
                ),
            ),
            Mistake(
                "With much memory: is the model trained for such a context?",
                lambda budget, fixed, a_token, trained: max(0, (budget - fixed) // a_token // _CELLS * _CELLS),
            ),
            Mistake("A context of less than nothing? Look at a small budget.", _context),
            Mistake("Weights and runtime want their share first.", lambda b, fixed, a, trained: _context(b, 0, a, trained)),
        ),
        hints=(
            "Step 7 asks how much is left for tokens, and step 2 in which groups a context is counted: you need both.",
            "How many tokens do the bytes beside the fixed ones pay for, and how many whole groups of cells are these?",
            "The whole groups make a number of tokens that two borders can still change: one above it and one below it.",
        ),
    ),
)
