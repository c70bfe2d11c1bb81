"""Exercises of 07_benchmarking."""

import math
import random
import statistics
from collections.abc import Callable

from labkit.course.exercise import Exercise, Inputs, Mistake

_RUNS = [0.78, 0.80, 2.10, 0.79, 0.82]
_TWENTY = [20.0, *(float(n) for n in range(1, 20))]
_STAMPS = [10.0, 10.5, 10.75, 11.0, 11.25]


def _runs(generator: random.Random) -> Inputs:
    usual = generator.uniform(0.2, 5)
    seconds = [round(usual * generator.choice((1, 1, 1, 3)) * generator.uniform(0.95, 1.1), 3) for _ in range(11)]
    return seconds[: generator.choice((1, 3, 5, 7, 9, 11))], generator.randint(8, 256)


def _pauses(generator: random.Random) -> Inputs:
    count = generator.choice((1, 19, 20, *(generator.randint(21, 120) for _ in range(5))))
    return ([round(generator.uniform(4, 9) * generator.choice((1, 1, 1, 1, 2.5)), 2) for _ in range(count)],)


def _stamps(generator: random.Random) -> Inputs:
    moments = [round(generator.uniform(0, 1000), 3)]
    moments.append(moments[0] + generator.uniform(0.01, 4))
    for _ in range(generator.randint(1, 30)):
        moments.append(moments[-1] + generator.uniform(0.004, 0.2))
    return (moments,)


def _p95(pauses: list[float], shift: int = 0) -> float:
    return sorted(pauses)[min(len(pauses), math.ceil(95 * len(pauses) / 100) + shift) - 1]


def _between(pauses: list[float]) -> float:
    """Return the 95th percentile as NumPy computes it by default, interpolated between two values."""
    return statistics.quantiles(pauses, n=20, method="inclusive")[-1] if len(pauses) > 1 else pauses[0]


def _paced(count: Callable[[list[float]], float], begin: int = 1) -> Callable[[list[float]], list[float]]:
    return lambda stamps: [stamps[1] - stamps[0], count(stamps) / (stamps[-1] - stamps[begin])]


EXERCISES = (
    Exercise(
        name="wait_and_pace",
        points=3,
        question="a list of the seconds until the first token, and the tokens per second after it.",
        examples=(
            ((_STAMPS,), [0.5, 4.0]),
            (([0.0, 2.0, 2.5],), [2.0, 2.0]),
            (([100.0, 100.25, 101.0, 101.5, 102.0],), [0.25, 1.7142857142857142]),
        ),
        inputs=_stamps,
        mistakes=(
            Mistake(
                "Count the pauses between the tokens: are there as many pauses as tokens?",
                _paced(lambda stamps: len(stamps) - 1),
            ),
            Mistake("You count a time at which there was no token.", _paced(lambda stamps: len(stamps))),
            Mistake("Is the prompt read at the speed of writing?", _paced(lambda stamps: len(stamps) - 1, begin=0)),
            Mistake("Does the clock begin at 0?", lambda stamps: [stamps[1], (len(stamps) - 2) / (stamps[-1] - stamps[1])]),
            Mistake(
                "One of the two is upside down.",
                lambda stamps: [stamps[1] - stamps[0], (stamps[-1] - stamps[1]) / (len(stamps) - 2)],
            ),
            Mistake(
                "In which unit should the wait be?",
                lambda stamps: [1000 * (stamps[1] - stamps[0]), (len(stamps) - 2) / (stamps[-1] - stamps[1])],
            ),
        ),
        hints=(
            "Steps 3 and 4 distinguish two things: the wait for the first token, and the speed of those that follow.",
            "Draw the stamps on a line: which interval is the wait, and which belongs to the tokens after the first?",
            "The pace is a number of tokens divided by a time interval: which tokens were generated within that interval?",
        ),
    ),
    Exercise(
        name="median_speed",
        points=2,
        question="the tokens per second of the median run, of an odd number of runs.",
        examples=(((_RUNS, 48), 60.0), (([0.5], 20), 40.0), (([6.0, 3.0, 7.0], 10), 1.6666666666666667)),
        inputs=_runs,
        mistakes=(
            Mistake("That is a mean: one disturbed run pulls it down.", lambda runs, n: n * len(runs) / sum(runs)),
            Mistake(
                "A mean of the speeds is still a mean.", lambda runs, n: sum(n / seconds for seconds in runs) / len(runs)
            ),
            Mistake("The middle in which order?", lambda runs, n: n / runs[len(runs) // 2]),
            Mistake("That is the luckiest run.", lambda runs, n: n / min(runs)),
            Mistake("That is the run that was disturbed most.", lambda runs, n: n / max(runs)),
            Mistake("That is a time: should it not be a speed?", lambda runs, n: sorted(runs)[len(runs) // 2]),
        ),
        hints=(
            "Step 5 says that one bad run hardly changes the median: it depends on an order, not on a sum.",
            "Sort 3, 9 and 4 by hand: which position does the middle one have, if the first position is 0?",
            "First find the time of the median run: how do you get a speed from that one time?",
        ),
    ),
    Exercise(
        name="p95",
        points=2,
        question="the shortest of these pauses that at least 95 of 100 pauses do not exceed.",
        examples=(
            (([5.0],), 5.0),
            ((_TWENTY,), 19.0),
            (([7.0, 30.0, 7.5],), 30.0),
            (([float(n) for n in range(50, 0, -1)],), 48.0),
            (([9.0, 8.0, *([1.0] * 30)],), 8.0),
        ),
        inputs=_pauses,
        mistakes=(
            Mistake("With many pauses: is that not the very longest?", max),
            Mistake("Python counts positions from 0.", lambda pauses: _p95(pauses, 1)),
            Mistake("In which order do the pauses come?", lambda pauses: pauses[math.ceil(0.95 * len(pauses)) - 1]),
            Mistake("95 of 100 pauses, not 95 % of the longest.", lambda pauses: 0.95 * max(pauses)),
            Mistake(
                "Your position is 95 % of the way from the first to the last: count the pauses up to it instead.",
                lambda pauses: sorted(pauses)[math.ceil(0.95 * (len(pauses) - 1))],
            ),
            Mistake("No pause was that long: the answer is one of the pauses.", _between),
            Mistake(
                "What if 95 of 100 is not a whole number of pauses: is the smaller number enough?",
                lambda pauses: sorted(pauses)[max(1, int(0.95 * len(pauses))) - 1],
            ),
        ),
        hints=(
            "Step 5 says that one token in 20 takes longer: a percentile is about positions in a sorted list.",
            "Think of 10 pauses: how many of them, in whole pauses, must not exceed the answer?",
            "At least 95 of 100 says how many pauses you need, and which way to round: that is a position in which order?",
        ),
    ),
)
