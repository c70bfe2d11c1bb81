"""Exercises of 00_start_here."""

import random

from labkit.course.exercise import Exercise, Inputs, Mistake

_MODELS = [["tiny", 0.5], ["small", 2.0], ["large", 4.5]]
_NAMES = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen")


def _models(generator: random.Random) -> Inputs:
    # Quarters add up exactly in floating point: at the limit, every way to write the comparison gives the same result.
    free = generator.randint(5, 64) / 4
    names = generator.sample(_NAMES, generator.randint(3, len(_NAMES)))
    sizes = [
        generator.choice((free - 1, free - 0.5, generator.randint(1, int(4 * free)) / 4, generator.randint(1, 64) / 4))
        for _ in names
    ]
    return [[name, max(0.25, size)] for name, size in zip(names, sizes, strict=True)], free


EXERCISES = (
    Exercise(
        name="writing_speed",
        points=1,
        question="the tokens per second, from the number of tokens and the seconds that they took.",
        examples=(((96, 2.5), 38.4), ((128, 0.8), 160.0), ((100, 3.0), 33.333333333333336)),
        inputs=lambda generator: (generator.randint(1, 600), round(generator.uniform(0.2, 60), 2)),
        mistakes=(
            Mistake("A longer text in the same time: should that give a smaller number?", lambda n, seconds: seconds / n),
            Mistake("The same text in more seconds: should that give a larger number?", lambda n, seconds: n * seconds),
            Mistake("No one asked for whole tokens: what happened to the rest?", lambda n, seconds: n // seconds),
            Mistake("Do not round the number.", lambda n, seconds: round(n / seconds)),
        ),
        hints=(
            "Step 3 measures speed in tokens per second: how many tokens come in one second?",
            "Work out a small case by hand: 10 tokens in 2 seconds, how many is that per second?",
            "By hand you did one operation on two numbers: write the same one with the two names, after the word return.",
        ),
    ),
    Exercise(
        name="names_that_fit",
        points=2,
        question="the names of the models that fit into the free RAM with 1 GB to spare, in the given order.",
        examples=(
            ((_MODELS, 5.0), ["tiny", "small"]),
            ((_MODELS, 3.0), ["tiny", "small"]),
            ((_MODELS, 1.0), []),
            (([["large", 4.0], ["huge", 9.0], ["tiny", 0.5]], 5.0), ["large", "tiny"]),
        ),
        inputs=_models,
        mistakes=(
            Mistake("What is left for everything but the model?", lambda models, free: _fitting(models, free)),
            Mistake("A model that leaves exactly 1 GB fits, too.", lambda models, free: _fitting(models, free - 1.25)),
            Mistake("That is how many fit: which ones?", lambda models, free: len(_fitting(models, free - 1))),
            Mistake(
                "Those are sizes: what was asked for?", lambda models, free: [size for _, size in models if size + 1 <= free]
            ),
            Mistake(
                "Is that what fits, or what does not?",
                lambda models, free: [name for name, size in models if size + 1 > free],
            ),
            Mistake("Keep the names in their original order.", lambda m, free: _fitting(m, free - 1)[::-1]),
        ),
        hints=(
            "The first guess in step 6 counts two things that need RAM: the file is one, what is the other?",
            "Decide for a single model first: what do you compare with the free RAM, and may the two be equal?",
            "A loop over the pairs keeps their order: add a name to a new list if your comparison holds for its size.",
        ),
    ),
)


def _fitting(models: list[list[object]], room: float) -> list[str]:
    return [str(name) for name, size in models if isinstance(size, float) and size <= room]
