"""Exercises of 08_threads_and_gpu_layers."""

import random

from labkit.course.exercise import Exercise, Inputs, Mistake


def _room(generator: random.Random) -> Inputs:
    n_layers = generator.randint(4, 80)
    layer = round(generator.uniform(1, 300), 1)
    output = round(generator.uniform(10, 500), 1)
    return round(generator.uniform(0, 1.3) * (n_layers * layer + output), 1), n_layers, layer, output


def _first_above(speeds: list[float], share: float) -> int:
    return next(index for index, speed in enumerate(speeds, start=1) if speed > share * max(speeds))


def _first_at(speeds: list[float], least: float) -> int:
    return next(index for index, speed in enumerate(speeds, start=1) if speed >= least)


def _may_exceed(room: float, n_layers: int, layer: float, output: float) -> int:
    return 0 if room < output else 1 + int((room - output) // layer)


EXERCISES = (
    Exercise(
        name="fewest_threads",
        points=2,
        question="the smallest number of threads that reaches this share of the best speed.",
        examples=(
            (([10.0, 19.0, 24.0, 25.0], 0.95), 3),
            (([10.0, 19.0, 24.0, 25.0], 0.5), 2),
            (([20.0, 30.0, 12.0], 0.9), 2),
            (([5.0, 10.0, 10.0], 1.0), 2),
            (([24.0, 24.5, 10.0, 25.0], 0.97), 2),
        ),
        inputs=lambda generator: (
            [round(generator.uniform(5, 100), 1) for _ in range(generator.randint(1, 10))],
            round(generator.uniform(0.5, 1.0), 2),
        ),
        mistakes=(
            Mistake("The first entry belongs to one thread, not to none.", lambda s, p: _first_at(s, p * max(s)) - 1),
            Mistake("Reaching the share exactly is enough.", lambda s, p: _first_above(s, p) if p < 1 else len(s) + 1),
            Mistake("That is the fastest: fewer may be almost as fast.", lambda s, p: s.index(max(s)) + 1),
            Mistake(
                "The share is of the best speed, wherever it is in the list, not of the last one.",
                lambda s, p: _first_at(s, p * s[-1]),
            ),
        ),
        hints=(
            "Step 1 plotted a curve that grows more slowly with each thread: how high does it have to be for this share?",
            "Take speeds of 10, 18 and 20 and a share of 0.8: which speed must be reached, and which entry is first?",
            "Go up from one thread and stop at the first speed that is enough: how many threads does its position mean?",
        ),
    ),
    Exercise(
        name="split_layers",
        points=2,
        question="the device of each of n layers: 0 while its number divided by n is below a half, then 1.",
        examples=(((4,), [0, 0, 1, 1]), ((31,), [0] * 16 + [1] * 15), ((1,), [0]), ((6,), [0, 0, 0, 1, 1, 1])),
        inputs=lambda generator: (generator.randint(1, 120),),
        mistakes=(
            Mistake("Layers are numbered from 0.", lambda n: [0 if (index + 1) / n < 1 / 2 else 1 for index in range(n)]),
            Mistake("Whole halves: what about an odd number of layers?", lambda n: [0] * (n // 2) + [1] * (n - n // 2)),
            Mistake(
                "You alternate between the devices: neighbours belong together.", lambda n: [index % 2 for index in range(n)]
            ),
        ),
        hints=(
            "In step 7, two devices share the layers: the rule decides for each layer separately, from its number alone.",
            "Write down i / n for each layer of n = 3: on which side of a half is the one in the middle?",
            "Make the list in a loop over the layers' numbers: what do you check each time, and what are the two answers?",
        ),
    ),
    Exercise(
        name="layers_that_fit",
        points=3,
        question="the largest n_gpu_layers whose output and layers fit into the room; the output counts as the first layer.",
        examples=(
            ((96.0, 30, 2.86, 28.69), 24),
            ((28.0, 30, 2.86, 28.69), 0),
            ((28.69, 30, 2.86, 28.69), 1),
            ((1000.0, 30, 2.86, 28.69), 31),
            ((1000.0, 12, 5.0, 20.0), 13),
            ((10.0, 12, 5.0, 20.0), 0),
        ),
        inputs=_room,
        mistakes=(
            Mistake(
                "The output's table goes there first.",
                lambda room, n_layers, layer, _: min(n_layers + 1, int(room // layer)),
            ),
            Mistake("The model has only its layers and the output: there are no more to move.", _may_exceed),
            Mistake("The output counts as a layer, too.", lambda *given: max(0, min(_may_exceed(*given) - 1, given[1]))),
        ),
        hints=(
            "Step 9 places the output before any layer, and step 3 says how the output counts in n_gpu_layers.",
            "Take a room of 50, an output of 20 and layers of 8: what is left for layers, and how many whole ones fit?",
            "Distinguish three cases: no room for the output, room for it and some layers, more room than all of them need.",
        ),
    ),
)
