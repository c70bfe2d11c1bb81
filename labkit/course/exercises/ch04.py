"""Exercises of 04_quantization."""

import math
import random
from collections.abc import Callable

from labkit.course.exercise import Exercise, Inputs, Mistake

Rows = list[tuple[str, float, float]]

_ROWS = [
    ["Q8_0", 145.0, 0.004],
    ["Q5_K_M", 112.0, 0.069],
    ["Q4_K_M", 105.0, 0.051],
    ["Q3_K_M", 94.0, 0.126],
    ["Q4_0", 92.0, 0.243],
]
_MADE_UP = [["one", 10.0, 0.5], ["two", 8.0, 0.2], ["three", 12.0, 0.1], ["four", 2.0, 0.3]]


def _bytes(generator: random.Random) -> Inputs:
    n_weights = generator.choice((16, 32, 64, 256))
    scales = [generator.choice((1, 2, 4, 12, 16)) for _ in range(generator.randint(1, 3))]
    return [*scales, n_weights * generator.randint(2, 8) // 8], n_weights


def _table(generator: random.Random) -> Inputs:
    names = generator.sample(("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K"), generator.randint(2, 8))
    sizes = [round(generator.uniform(50, 300), 1) for _ in names]
    rows = [[name, size, round(generator.uniform(0, 0.5), 4)] for name, size in zip(names, sizes, strict=True)]
    return rows, generator.choice(sorted(sizes)[len(sizes) // 3 :])


def _unpack(scale: float, packed: list[int], order: Callable[[int, int], int]) -> list[float]:
    halves = [byte & 15 for byte in packed], [byte >> 4 for byte in packed]
    return [scale * (halves[order(i, 0)][order(i, 1)] - 8) for i in range(2 * len(packed))]


EXERCISES = (
    Exercise(
        name="unpack_q4_0",
        points=3,
        question="the 32 weights of a block of Q4_0, in order, from its scale and its 16 bytes.",
        examples=(
            (
                (0.5, list(range(16))),
                [-4.0, -3.5, -3.0, -2.5, -2.0, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5] + [-4.0] * 16,
            ),
            ((2.0, [240] * 16), [-16.0] * 16 + [14.0] * 16),
            ((-0.3, [186] + [136] * 15), [-0.6] + [0.0] * 15 + [-0.9] + [0.0] * 15),
        ),
        inputs=lambda generator: (round(generator.uniform(-0.5, 0.5), 4), [generator.randrange(256) for _ in range(16)]),
        mistakes=(
            Mistake(
                "Which weight is in the upper half of byte 0: is it weight 1?",
                lambda scale, packed: _unpack(scale, packed, lambda i, part: i // 2 if part else i % 2),
            ),
            Mistake(
                "Which half of a byte holds the earlier weight?",
                lambda scale, packed: _unpack(scale, packed, lambda i, part: i % 16 if part else 1 - i // 16),
            ),
            Mistake(
                "Can a weight be on the other side of zero in your answer?",
                lambda scale, packed: [scale * q for q in [byte & 15 for byte in packed] + [byte >> 4 for byte in packed]],
            ),
            Mistake(
                "A NumPy uint8 cannot be negative: in it, 0 - 8 is 248. Use int.",
                lambda s, p: [s * ((q - 8) % 256) for q in [byte & 15 for byte in p] + [byte >> 4 for byte in p]],
            ),
            Mistake(
                "15 does not mean -1 here: Q4_0 has another way to get below zero.",
                lambda s, p: [s * (q - 16 * (q > 7)) for q in [byte & 15 for byte in p] + [byte >> 4 for byte in p]],
            ),
            Mistake(
                "You shift a number from 0 to 15: what about the scale?",
                lambda scale, p: [q - 8 for q in [byte & 15 for byte in p] + [byte >> 4 for byte in p]],
            ),
        ),
        hints=(
            "Step 4 gives the formula of a weight, and says in which half of which byte its nibble is: you need both.",
            "Split byte 0 of the example into its nibbles: which two weights are they, and what does the formula give?",
            "List all lower halves and all upper halves: which list comes first, and what happens to each number?",
        ),
    ),
    Exercise(
        name="weight_bits",
        points=1,
        question="the bits per weight, from the bytes of a block's parts and the number of its weights.",
        examples=((([2, 32], 32), 8.5), (([2, 16], 32), 4.5), (([2, 2, 12, 128], 256), 4.5), (([2, 2, 16], 32), 5.0)),
        inputs=_bytes,
        mistakes=(
            Mistake("How many bits are in a byte?", lambda parts, n_weights: sum(parts) / n_weights),
            Mistake("The scales need space, too.", lambda parts, n_weights: 8 * parts[-1] / n_weights),
            Mistake("Is that bits per weight, or weights per bit?", lambda parts, n_weights: n_weights / (8 * sum(parts))),
        ),
        hints=(
            "Steps 2 and 4 computed this figure for one type each: what did their cells divide by what?",
            "Draw a block of three parts: which of them need space, and how many weights share all that space?",
            "How many bits does the whole block have, with all its parts, before you divide them among the weights?",
        ),
    ),
    Exercise(
        name="whole_perplexity",
        points=3,
        question="the perplexity of the whole text, from the perplexity and the number of tokens of each part.",
        examples=(
            (([[2.0, 100], [8.0, 100]],), 4.0),
            (([[4.0, 10], [4.0, 990]],), 4.0),
            (([[2.0, 300], [32.0, 100]],), 4.0),
            (([[10.0, 1], [1000.0, 1], [1.0, 1]],), 21.544346900318832),
        ),
        inputs=lambda generator: (
            [[round(generator.uniform(2, 60), 2), generator.randint(10, 2000)] for _ in range(generator.randint(1, 6))],
        ),
        mistakes=(
            Mistake(
                "You average perplexities: which quantity does the formula average?",
                lambda parts: sum(value for value, _ in parts) / len(parts),
            ),
            Mistake(
                "Longer parts count for more, that is right. But which quantity does the formula average?",
                lambda parts: sum(value * n for value, n in parts) / sum(n for _, n in parts),
            ),
            Mistake(
                "Does a part of 10 tokens count as much as one of 1,000?",
                lambda parts: math.exp(sum(math.log(value) for value, _ in parts) / len(parts)),
            ),
            Mistake(
                "That is the mean surprise: one step is missing.",
                lambda parts: sum(n * math.log(value) for value, n in parts) / sum(n for _, n in parts),
            ),
        ),
        hints=(
            "Step 8 computes perplexity from a mean over tokens: the perplexity of a part hides such a mean, too.",
            "Undo the formula for one part: what was its mean surprise, and what was the total surprise of all its tokens?",
            "With the surprise of the whole text and the number of its tokens, you can apply the formula in step 8.",
        ),
    ),
    Exercise(
        name="best_type",
        points=2,
        question="the name of the type that loses least, among those whose file is not larger than the limit.",
        examples=(
            ((_ROWS, 100.0), "Q3_K_M"),
            ((_ROWS, 112.0), "Q4_K_M"),
            ((_ROWS, 92.0), "Q4_0"),
            ((_ROWS, 500.0), "Q8_0"),
            ((_MADE_UP, 11.0), "two"),
        ),
        inputs=_table,
        mistakes=(
            Mistake(
                "The largest that fits is not always the best: look at the loss.", lambda rows, limit: _most(rows, limit, 1)
            ),
            Mistake("Does that file fit?", lambda rows, limit: min(rows, key=lambda row: row[2])[0]),
            Mistake(
                "The smallest file is not the one that loses least.", lambda rows, limit: min(rows, key=lambda r: r[1])[0]
            ),
            Mistake("Is a large KL good or bad?", lambda rows, limit: _most(rows, limit, 2)),
        ),
        hints=(
            "Step 10 has a size and a KL for each type: one decides which types qualify, the other which of them wins.",
            "Cross out on paper the rows that are over the limit: only then compare the losses.",
            "Python's min with a key finds a whole row among those left: by which column, and what part is the answer?",
        ),
    ),
)


def _most(rows: Rows, limit: float, column: int) -> str:
    return max((row for row in rows if row[1] <= limit), key=lambda row: row[column])[0]
