"""Exercises of 09_milestone."""

import random

from labkit.course.exercise import Exercise, Inputs, Mistake


def _memory(generator: random.Random) -> Inputs:
    return round(generator.uniform(5, 400), 1), round(generator.uniform(0.1, 70), 2), round(generator.uniform(1, 50), 1)


def _times(generator: random.Random) -> Inputs:
    return generator.randint(1, 64), round(generator.uniform(0.01, 1), 3), round(generator.uniform(0.001, 0.2), 4)


EXERCISES = (
    Exercise(
        name="most_bits",
        points=2,
        question="the most bits per weight at which reading all weights still allows this many tokens per second.",
        examples=(((40.0, 8.0, 10.0), 4.0), ((100.0, 2.0, 20.0), 20.0), ((10.0, 3.0, 7.0), 3.8095238095238093)),
        inputs=_memory,
        mistakes=(
            Mistake("Bandwidth is in bytes, the answer is in bits.", lambda gb, weights, speed: gb / (weights * speed)),
            Mistake("You multiply by the speed: more tokens per second leave less time.", lambda gb, w, s: 8 * gb * s / w),
            Mistake("That is upside down: more bandwidth should allow more bits.", lambda gb, w, s: w * s / (8 * gb)),
            Mistake("The answer is for one weight, not for all.", lambda gb, weights, speed: 8 * gb / speed),
        ),
        hints=(
            "Step 1 goes from the bits per weight to the bandwidth that they need: this is the reverse.",
            "How much can be read per token, if all tokens of one second share what memory delivers in that second?",
            "You know how much can be read per token, and how many weights share it: how large is one, in which unit?",
        ),
    ),
    Exercise(
        name="throughput",
        points=2,
        question="the tokens per second of n prompts together, when each step takes as long as the slower of its two parts.",
        examples=(
            ((1, 0.1, 0.02), 10.0),
            ((4, 0.1, 0.02), 40.0),
            ((10, 0.1, 0.02), 50.0),
            ((3, 0.07, 0.013), 42.857142857142854),
        ),
        inputs=_times,
        mistakes=(
            Mistake("Each sequence has to be computed: one is not enough.", lambda n, read, compute: n / max(read, compute)),
            Mistake(
                "More prompts should give more tokens per second, at first.", lambda n, read, compute: 1 / max(read, compute)
            ),
            Mistake("A step adds a token to each of the prompts.", lambda n, read, compute: 1 / max(read, n * compute)),
            Mistake(
                "Reading and computing happen at the same time here.", lambda n, read, compute: n / (read + n * compute)
            ),
        ),
        hints=(
            "Step 3 says how long it takes until each text has its next token, and how many tokens that is.",
            "Take 3 prompts, 1 second of reading and 2 seconds of computing per prompt: when is the step done?",
            "One of the step's two times grows with n and the other does not: how many tokens are there when both are done?",
        ),
    ),
)
