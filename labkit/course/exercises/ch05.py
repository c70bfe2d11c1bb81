"""Exercises of 05_sampling."""

import math
import random

from labkit.course.exercise import Exercise, Inputs, Mistake

_LOGITS = [2.0, 1.0, 0.0]
_SHARES = [0.5, 0.25, 0.15, 0.07, 0.03]


def _softmax_wrong(logits: list[float], temperature: float, *, power: float = 1.0, shift: bool = True) -> list[float]:
    weights = [math.exp(x * temperature**power - (max(logits) * temperature**power if shift else 0)) for x in logits]
    return [weight / sum(weights) for weight in weights]


def _shares(generator: random.Random) -> Inputs:
    weights = sorted((generator.random() for _ in range(generator.randint(3, 20))), reverse=True)
    shares = [weight / sum(weights) for weight in weights]
    return shares, round(generator.uniform(0.1, 0.95), 2)


def _count_below(shares: list[float], limit: float) -> int:
    total = 0.0
    for count, share in enumerate(shares):
        total += share
        if total >= limit:
            return count
    return len(shares)


def _penalize(
    logit: float,
    count: int,
    repeat: float,
    frequency: float,
    presence: float,
    *,
    absent: bool = False,
    divides: bool = False,
) -> float:
    """Return the new logit, if asked also for tokens that do not occur, or with negative logits divided."""
    if count == 0 and not absent:
        return logit
    return (logit / repeat if logit > 0 or divides else logit * repeat) - count * frequency - presence


def _penalties(generator: random.Random) -> Inputs:
    logit, count = round(generator.uniform(-5, 8), 2), generator.randint(0, 5)
    return logit, count, round(generator.uniform(1, 2), 2), round(generator.random(), 2), round(generator.random(), 2)


EXERCISES = (
    Exercise(
        name="softmax_at",
        points=2,
        question="the probabilities of logits at a temperature, as a list.",
        examples=(
            ((_LOGITS, 1.0), [0.6652409557748219, 0.24472847105479767, 0.09003057317038046]),
            ((_LOGITS, 0.5), [0.8668133321973349, 0.11731042782619837, 0.015876239976466765]),
            (([0.0, 0.0], 0.7), [0.5, 0.5]),
            (([-1.0, 0.5], 0.4), [0.022977369910025615, 0.9770226300899744]),
        ),
        inputs=lambda generator: (
            [round(generator.uniform(-5, 5), 2) for _ in range(generator.randint(2, 12))],
            round(generator.uniform(0.2, 3), 2),
        ),
        mistakes=(
            Mistake("Are they sharper or flatter at 0.5? You multiply by the temperature.", _softmax_wrong),
            Mistake("The temperature has no effect yet.", lambda logits, _: _softmax_wrong(logits, 1.0)),
            Mistake(
                "These do not add up to 1: divide by their sum.",
                lambda logits, temperature: [math.exp(x / temperature) for x in logits],
            ),
            Mistake(
                "Divide the logits by the temperature, not the probabilities.",
                lambda logits, temperature: [share / temperature for share in _softmax_wrong(logits, 1.0)],
            ),
        ),
        hints=(
            "Step 1 turns logits into probabilities in two lines, and step 2 says before which one the temperature comes.",
            "Take the logits 2 and 0 at temperature 2: which two numbers go into exp?",
            "Keep the results of exp as a list: each probability needs one of them, and one number made from all.",
        ),
    ),
    Exercise(
        name="count_top_p",
        points=2,
        question="how many of the likeliest tokens top-p keeps; the probabilities are sorted, largest first.",
        examples=(((_SHARES, 0.8), 3), ((_SHARES, 0.4), 1), ((_SHARES, 0.6), 2), (([0.4, 0.3, 0.2, 0.1], 0.95), 4)),
        inputs=_shares,
        mistakes=(
            Mistake("The token that reaches the limit is kept, too.", _count_below),
            Mistake("You compare each probability separately: add them up.", lambda s, p: sum(share >= p for share in s)),
            Mistake("Start adding at the likeliest token.", lambda s, p: _count_below(s[::-1], p) + 1),
        ),
        hints=(
            "In step 3, top-p keeps the fewest tokens, the likeliest first, that together have at least p.",
            "Write down the running sums of 0.6, 0.3 and 0.1: which is the first that is not below p = 0.7?",
            "Add a probability to a running total, then check if that is enough: how many tokens have you taken by then?",
        ),
    ),
    Exercise(
        name="count_min_p",
        points=2,
        question="how many tokens min-p keeps: those at least min_p times as likely as the likeliest.",
        examples=(((_SHARES, 0.2), 3), ((_SHARES, 0.4), 2), ((_SHARES, 1.0), 1), (([0.25] * 4, 0.9), 4)),
        inputs=_shares,
        mistakes=(
            Mistake(
                "The limit is not itself a probability: it is a fraction of the largest one.",
                lambda s, p: sum(x >= p for x in s),
            ),
            Mistake("A token exactly at the limit is kept.", lambda s, p: sum(x > p * max(s) for x in s)),
            Mistake("That is the number of dropped tokens.", lambda s, p: sum(x < p * max(s) for x in s)),
        ),
        hints=(
            "In step 3, min-p looks at the likeliest token, and compares every other one with it.",
            "Step 3 found the limit for 0.2 and a top probability of 50 %: what is the limit for 0.3 and 80 %?",
            "Work out the limit once, before you look at single probabilities: how many of them reach it?",
        ),
    ),
    Exercise(
        name="penalize",
        points=3,
        question="the new logit of a token that occurs count times in the last tokens.",
        examples=(
            ((4.0, 2, 2.0, 0.5, 0.0), 1.0),
            ((-1.0, 1, 2.0, 0.5, 0.25), -2.75),
            ((3.0, 0, 2.0, 0.5, 1.0), 3.0),
            ((2.0, 3, 1.0, 0.5, 1.0), -0.5),
        ),
        inputs=_penalties,
        mistakes=(
            Mistake(
                "Is a negative logit likelier or less likely after your division?",
                lambda *given: _penalize(*given, divides=True),
            ),
            Mistake("A token that does not occur keeps its logit.", lambda *given: _penalize(*given, absent=True)),
            Mistake(
                "The frequency penalty counts every occurrence.",
                lambda logit, count, repeat, frequency, presence: _penalize(logit, count, repeat, 0.0, frequency + presence),
            ),
            Mistake(
                "The presence penalty counts once, however often the token occurs.",
                lambda logit, count, repeat, frequency, presence: _penalize(logit, count, repeat, frequency + presence, 0.0),
            ),
            Mistake(
                "A penalty makes the token less likely: is yours added or subtracted?",
                lambda logit, count, repeat, frequency, presence: _penalize(logit, count, repeat, -frequency, -presence),
            ),
        ),
        hints=(
            "Step 5 lists what each of the three penalties does, and which of them depends on the count.",
            "Follow one token through it on paper: which penalty looks at the sign of its logit, and which at its count?",
            "Treat count 0 first; then change the logit by the repeat penalty, by its sign; then subtract the other two.",
        ),
    ),
)
