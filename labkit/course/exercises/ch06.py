"""Exercises of 06_memory."""

import random

from labkit.course.exercise import Exercise, Inputs, Mistake

_CELLS = 256
_BUDGET = (1_000_000, 400_000, 1_000, 8_192)


def _heads(generator: random.Random) -> Inputs:
    n_heads_kv = generator.choice((1, 2, 3, 4, 8, 16))
    key = generator.choice((64, 80, 96, 128, 192, 256))
    value = generator.choice((key, 128, 512))
    return generator.randint(1, 90), n_heads_kv * generator.choice((1, 2, 3, 4, 8)), n_heads_kv, key, value


def _budget(generator: random.Random) -> Inputs:
    fixed = generator.randint(1_000_000, 5_000_000_000)
    per_token = generator.randint(500, 600_000)
    groups = generator.randint(2, 128)
    within = generator.randint(1, groups - 1)
    fitting = generator.choice((within, within, within, groups + generator.randint(1, 200), -generator.randint(2, 50)))
    beyond = generator.choice((-1, 0, *(generator.randint(1, 255 * per_token) for _ in range(4))))
    return max(0, fixed + fitting * _CELLS * per_token + beyond), fixed, per_token, _CELLS * groups


def _row(layers: int, heads: int, key: int, value: int, size: int = 2) -> int:
    return layers * heads * (key + value) * size


def _context(budget: int, fixed: int, per_token: int, trained: int) -> int:
    return min(trained, (budget - fixed) // per_token // _CELLS * _CELLS)


EXERCISES = (
    Exercise(
        name="token_cache",
        points=2,
        question="the bytes per token in an F16 cache.",
        examples=(
            ((30, 9, 3, 64, 64), 23_040),
            ((32, 32, 32, 128, 128), 524_288),
            ((32, 32, 8, 128, 128), 131_072),
            ((27, 16, 16, 192, 128), 276_480),
        ),
        inputs=_heads,
        mistakes=(
            Mistake(
                "There are two kinds of heads: are query heads kept in the cache?",
                lambda layers, heads, kv, key, value: _row(layers, heads, key, value),
            ),
            Mistake("Keys are only half of the cache.", lambda layers, heads, kv, key, value: _row(layers, kv, key, 0)),
            Mistake(
                "Does a value always have as many numbers as a key?", lambda n, heads, kv, key, _: _row(n, kv, key, key)
            ),
            Mistake(
                "You counted numbers: how large is each of them?",
                lambda layers, heads, kv, key, value: _row(layers, kv, key, value, 1),
            ),
            Mistake(
                "That is the size in F32: the cache has a different type.",
                lambda layers, heads, kv, key, value: _row(layers, kv, key, value, 4),
            ),
            Mistake("Who keeps keys and values: the model, or each layer?", lambda n, h, kv, key, v: _row(1, kv, key, v)),
        ),
        hints=(
            "Step 2 has the formula for the cache of all cells: what is left of it for a single token?",
            "Five numbers are given, and the formula needs four of them: which one is not in it?",
            "Count the numbers that one layer keeps for a token, then those of all layers: how many bytes are they in F16?",
        ),
    ),
    Exercise(
        name="least_rooms",
        points=2,
        question="the rooms that are needed at once, when a result is needed until the next one is computed from it.",
        examples=(
            (([100, 100, 150, 300],), 450),
            (([300, 10, 200, 90],), 310),
            (([7],), 7),
            (([5, 80, 80, 5],), 160),
            (([10, 60, 10, 50, 50],), 100),
        ),
        inputs=lambda generator: ([generator.randint(1, 500) for _ in range(generator.randint(1, 12))],),
        mistakes=(
            Mistake("Is the first result still needed when the last one is computed?", sum),
            Mistake(
                "The largest result is computed from another one, or another one from it: both are needed at once.", max
            ),
            Mistake("Are the last two always the worst two?", lambda sizes: sum(sizes[-2:])),
            Mistake("Twice the largest is safe, but more than needed.", lambda sizes: 2 * max(sizes)),
            Mistake("The two largest are not always neighbours.", lambda sizes: sum(sorted(sizes)[-2:])),
        ),
        hints=(
            "Appendix A takes the results one after another: which of them are needed while the next one is computed?",
            "Write the sizes 10, 40 and 20 in a row: what is needed while the second is computed, and what while the third?",
            "Each step needs two neighbours of the row: compare all steps, and think of a row with a single result.",
        ),
    ),
    Exercise(
        name="context_that_fits",
        points=3,
        question="the longest context, in tokens, that fits into the budget and that the model was trained for.",
        examples=(
            (_BUDGET, 512),
            ((656_000, 400_000, 1_000, 8_192), 256),
            ((656_499, 400_500, 1_000, 8_192), 0),
            ((100_000_000, 400_000, 1_000, 4_096), 4_096),
            ((100_000, 900_000, 1_000, 8_192), 0),
            ((1_200_000, 400_000, 1_000, 8_192), 768),
        ),
        inputs=_budget,
        mistakes=(
            Mistake(
                "llama.cpp uses whole groups of cells: would it round this context up?",
                lambda budget, fixed, per_token, trained: max(0, min(trained, (budget - fixed) // per_token)),
            ),
            Mistake(
                "Rounded up, it needs more than there is.",
                lambda budget, fixed, per_token, trained: max(
                    0, min(trained, -(-((budget - fixed) // per_token) // _CELLS) * _CELLS)
                ),
            ),
            Mistake(
                "With a lot of memory: was the model trained for such a context?",
                lambda budget, fixed, per_token, trained: max(0, (budget - fixed) // per_token // _CELLS * _CELLS),
            ),
            Mistake("A negative context? Try a small budget.", _context),
            Mistake("Weights and runtime need their share first.", lambda b, fixed, a, trained: _context(b, 0, a, trained)),
        ),
        hints=(
            "Step 7 asks how much is left for tokens, and step 2 says in which groups a context is counted: you need both.",
            "How many tokens fit into the bytes besides the fixed ones, and how many whole groups of cells are these?",
            "The whole groups give a number of tokens that two limits can still change: one above it and one below it.",
        ),
    ),
)
