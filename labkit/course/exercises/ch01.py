"""Exercises of 01_load_and_generate."""

import random

from labkit.course.exercise import Exercise, Inputs, Mistake
from labkit.units import round_up

_GROUP = 256
_PIECES = ("a", "b", "c", "ab", "ba", "bc", "ca", ".", "\n", " ", "é")


def _speeds(generator: random.Random) -> Inputs:
    counts = generator.randint(1, 4000), generator.randint(1, 800)
    return *counts, round(generator.uniform(100, 2000), 1), round(generator.uniform(2, 90), 1)


def _tokens(generator: random.Random) -> Inputs:
    beyond = generator.choice((0, 0, 1, 255, generator.randint(2, 254)))
    total = _GROUP * generator.randint(1, 30) + beyond
    n_prompt = generator.randint(1, total - 1)
    return n_prompt, total - n_prompt


def _first_listed(text: str, stops: list[str]) -> str:
    return next((text[: text.find(stop)] for stop in stops if stop in text), text)


def _one_after_another(text: str, stops: list[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text


def _keeps_the_stop(text: str, stops: list[str]) -> str:
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    return text[: min(found)[0] + len(min(found)[1])] if found else text


EXERCISES = (
    Exercise(
        name="cut_at_stop",
        points=2,
        question="the text up to where one of the stop sequences first begins; all of it if none occurs.",
        examples=(
            (("1, 2, 3, 4", ["4", "3"]), "1, 2, "),
            (("no end in sight", ["END"]), "no end in sight"),
            (("one.\ntwo.", ["."]), "one"),
            (("abc", ["b", "ab"]), ""),
            (("to be or not to be", ["be"]), "to "),
            (("no.\nnothing. end", ["STOP", "end"]), "no.\nnothing. "),
        ),
        inputs=lambda generator: (
            "".join(generator.choice("abc .\né") for _ in range(generator.randint(0, 24))),
            generator.sample(_PIECES, generator.randint(1, 3)),
        ),
        mistakes=(
            Mistake("Is the first one in the list also the first one in the text?", _first_listed),
            Mistake("Leave out the stop sequence itself.", _keeps_the_stop),
            Mistake(
                "It may occur more than once: which occurrence ends the text?",
                lambda text, stops: text[: min((text.rfind(stop) for stop in stops if stop in text), default=len(text))],
            ),
            Mistake(
                "find returns -1 for what is not there, and a slice treats that as a position.",
                lambda text, stops: text[: min(text.find(stop) for stop in stops)],
            ),
            Mistake(
                "You search for each one in what is left after the previous one: this misses a stop that was cut through.",
                _one_after_another,
            ),
        ),
        hints=(
            "In step 5 labkit looks for the stop sequences in the text: which position in the text decides where it ends?",
            "Write down where each of the stops c, x and bc begins in abcd: which of them does not occur at all?",
            "Collect the positions of the stops that are in the text: which one ends the slice, and what if there is none?",
        ),
    ),
    Exercise(
        name="seconds_to_answer",
        points=1,
        question="the seconds until an answer is complete: first the prompt is read, then the answer is written.",
        examples=(
            ((450, 60, 450.0, 120.0), 1.5),
            ((1000, 10, 200.0, 10.0), 6.0),
            ((100, 10, 300.0, 7.0), 1.7619047619047619),
        ),
        inputs=_speeds,
        mistakes=(
            Mistake("Are tokens read at the speed of writing?", lambda prompt, answer, _, write: (prompt + answer) / write),
            Mistake("That is the time to first token: when does the last one come?", lambda p, a, read, write: p / read),
            Mistake("Which of the two speeds belongs to the prompt?", lambda p, a, read, write: p / write + a / read),
            Mistake(
                "A mean of the speeds hides that the slow part takes longer: time each part separately.",
                lambda p, a, read, write: (p + a) / ((read + write) / 2),
            ),
        ),
        hints=(
            "Step 6 distinguishes two phases, prefill and decode: each has its own number of tokens and its own speed.",
            "A speed is tokens per second: how long do 100 tokens take at 50 tokens per second?",
            "Work out the seconds of each phase separately: the second phase begins when the first one is done.",
        ),
    ),
    Exercise(
        name="context_needed",
        points=2,
        question="the size, in tokens, of the smallest context that has room for prompt and answer.",
        examples=(((300, 100), 512), ((200, 56), 256), ((1000, 100), 1280), ((255, 2), 512)),
        inputs=_tokens,
        mistakes=(
            Mistake(
                "That is how much you request. How much will llama.cpp reserve?", lambda prompt, answer: prompt + answer
            ),
            Mistake("Does everything fit into that?", lambda prompt, answer: (prompt + answer) // _GROUP * _GROUP),
            Mistake(
                "What if the sum is already a multiple?", lambda prompt, answer: ((prompt + answer) // _GROUP + 1) * _GROUP
            ),
            Mistake(
                "Prompt and answer share one context: round only once.",
                lambda prompt, answer: round_up(prompt, _GROUP) + round_up(answer, _GROUP),
            ),
            Mistake("The answer needs room, too.", lambda prompt, answer: round_up(prompt, _GROUP)),
        ),
        hints=(
            "In step 2 you asked for 1,000 tokens and got 1,024: in which groups does llama.cpp count a context?",
            "Prompt and answer together are one number of tokens: how many whole groups hold them?",
            "Think of boxes of 10: 30 things need 3 boxes and 31 need 4, so which division gives both results?",
        ),
    ),
)
