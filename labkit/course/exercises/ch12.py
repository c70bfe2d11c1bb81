"""Exercises of 12_larger_than_your_machine."""

import random

from labkit.course.exercise import Exercise, Inputs, Mistake


def _mixture(generator: random.Random) -> Inputs:
    total = round(generator.uniform(5, 700), 1)
    n_experts = generator.choice((4, 8, 16, 64, 128, 256))
    return total, round(total * generator.uniform(0.5, 0.98), 2), n_experts, generator.randint(1, n_experts // 2)


def _device(generator: random.Random) -> Inputs:
    n_layers, rest, experts = generator.randint(8, 96), generator.randint(300, 6000), generator.randint(50, 900)
    return rest + round(generator.uniform(-0.1, 1.1) * n_layers * experts), n_layers, rest, experts


EXERCISES = (
    Exercise(
        name="active_weights",
        points=2,
        question="the weights that a token reads: all that are outside of experts, and those in the chosen experts.",
        examples=(((30.5, 29.0, 128, 8), 3.3125), ((46.7, 45.1, 8, 2), 12.875), ((10.0, 6.0, 4, 4), 10.0)),
        inputs=_mixture,
        mistakes=(
            Mistake("Not everything is an expert: attention is read for every token.", lambda t, e, n, used: t * used / n),
            Mistake("Attention, router and output are read, too.", lambda t, e, n, used: e * used / n),
            Mistake("That reads no expert at all.", lambda t, e, n, used: t - e),
            Mistake("You leave out the chosen experts: they are the ones that are read.", lambda t, e, n, u: t - e * u / n),
            Mistake("One expert is not enough: each layer chooses several.", lambda t, e, n, used: t - e + e / n),
        ),
        hints=(
            "Step 2 counts the two kinds of weights separately: which of them does every token read?",
            "Take 20 weights, 16 of them in 4 experts, of which 2 are chosen: how many are read?",
            "Start with what is in no expert. Which part of the experts' weights do the chosen ones have?",
        ),
    ),
    Exercise(
        name="fewest_on_cpu",
        points=3,
        question="the fewest layers whose experts stay on the CPU so that all else fits; -1 if the rest does not.",
        examples=(
            ((8000, 48, 1500, 350), 30),
            ((20_000, 48, 1500, 350), 0),
            ((1500, 48, 1500, 350), 48),
            ((1499, 48, 1500, 350), -1),
            ((1500 + 350 * 7, 48, 1500, 350), 41),
            ((2000, 20, 1500, 350), 19),
        ),
        inputs=_device,
        mistakes=(
            Mistake(
                "That is how many layers' experts fit on the device: the question is how many do not.",
                lambda room, n, rest, experts: min(n, (room - rest) // experts) if room >= rest else -1,
            ),
            Mistake(
                "The rest needs room, too.",
                lambda room, n, rest, experts: max(0, n - room // experts) if room >= rest else -1,
            ),
            Mistake(
                "A part of a layer's experts does not count: they have to fit whole.",
                lambda room, n, rest, experts: max(0, n - -(-(room - rest) // experts)) if room >= rest else -1,
            ),
            Mistake(
                "A device with room for more has no negative number of layers to keep away.",
                lambda room, n, rest, experts: n - (room - rest) // experts if room >= rest else -1,
            ),
            Mistake(
                "What if not even the rest fits?", lambda room, n, rest, experts: max(0, n - max(0, room - rest) // experts)
            ),
        ),
        hints=(
            "Step 3 puts the rest on the device first: what is left of the room?",
            "With 90 left and 20 per layer, how many layers' experts fit, and how many of 12 layers do without?",
            "Distinguish three cases: no room for the rest, room for some experts, room for all of them.",
        ),
    ),
    Exercise(
        name="tokens_per_pass",
        points=2,
        question="the expected tokens per pass: the model's own, and each drafted one if it and all before it are right.",
        examples=(((0.5, 2), 1.75), ((1.0, 4), 5.0), ((0.0, 8), 1.0), ((0.8, 3), 2.952)),
        inputs=lambda generator: (round(generator.uniform(0.05, 0.99), 2), generator.randint(2, 16)),
        mistakes=(
            Mistake("A token after a wrong one is lost, even if it is right.", lambda p, k: 1 + k * p),
            Mistake("The model itself adds a token to every pass.", lambda p, k: sum(p**i for i in range(1, k + 1))),
            Mistake("You count one drafted token too few.", lambda p, k: sum(p**i for i in range(k))),
            Mistake("That counts only the case in which all drafted tokens are right.", lambda p, k: 1 + k * p**k),
        ),
        hints=(
            "Step 5 says when a drafted token is kept: it depends on all drafted tokens before it.",
            "With which chance is the second drafted token kept, and what does it add on average?",
            "Add up the chances that the first, the second and each further one is kept, and the model's own token.",
        ),
    ),
)
