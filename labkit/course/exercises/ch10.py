"""Exercises of 10_structured_output."""

import math
import random

from labkit.course.exercise import Exercise, Inputs, Mistake

_WORDS = ("true", "false", "null")
_CALL = {"tool": "multiply", "arguments": {"a": 3.5}}
_REQUIRED = {"multiply": ["a", "b"], "temperature": ["city"]}


def _softmax(logits: list[float], keep: list[bool]) -> list[float]:
    weights = [math.exp(x - max(logits)) if k else 0.0 for x, k in zip(logits, keep, strict=True)]
    return [weight / (sum(weights) or 1.0) for weight in weights]


def _open(logits: list[float], _allowed: object = None) -> list[float]:
    return _softmax(logits, [True] * len(logits))


def _zeroed(logits: list[float], allowed: list[bool]) -> list[float]:
    return _open([x if k else 0.0 for x, k in zip(logits, allowed, strict=True)])


def _masked(generator: random.Random) -> Inputs:
    size = generator.randint(3, 12)
    allowed = [generator.random() < 0.5 for _ in range(size)]
    allowed[generator.randrange(size)], allowed[0] = True, False
    allowed[-1] = True
    return [round(generator.uniform(-4, 6), 2) for _ in range(size)], allowed


def _texts(generator: random.Random) -> Inputs:
    texts = [
        "".join(generator.choice("abc") for _ in range(generator.randint(2, 6))) for _ in range(generator.randint(3, 8))
    ]
    so_far = generator.choice(texts)[: generator.randint(0, 2)]
    return texts, so_far


def _call(generator: random.Random) -> Inputs:
    names = generator.sample(["width", "height", "city", "day", "unit", "text"], 5)
    given = {name: generator.randint(0, 9) for name in generator.sample(names, generator.randint(0, 4))}
    return {"tool": "other", "arguments": given}, {"other": names[:3], "multiply": ["a", "b"]}


EXERCISES = (
    Exercise(
        name="masked_probabilities",
        points=2,
        question="the probabilities of all tokens when only the allowed ones may be drawn, as a list.",
        examples=(
            (([2.0, 1.0, 0.0], [True, True, True]), [0.6652409557748219, 0.24472847105479767, 0.09003057317038046]),
            (([2.0, 1.0, 0.0], [False, True, True]), [0.0, 0.7310585786300049, 0.2689414213699951]),
            (([5.0, 1.0, 1.0], [False, True, True]), [0.0, 0.5, 0.5]),
            (([-3.0, 4.0], [True, False]), [1.0, 0.0]),
            (([-1.0, 0.5, -2.0], [True, True, False]), [0.18242552380635635, 0.8175744761936437, 0.0]),
        ),
        inputs=_masked,
        mistakes=(
            Mistake("Forbidden tokens still have a probability.", _open),
            Mistake("A logit of 0 is not impossible: exp(0) is 1.", _zeroed),
            Mistake(
                "The allowed ones no longer add up to 1: divide by their sum.",
                lambda logits, allowed: [p if k else 0.0 for p, k in zip(_open(logits), allowed, strict=True)],
            ),
            Mistake(
                "Every token needs its place in the list, forbidden ones too.",
                lambda logits, allowed: [p for p, k in zip(_softmax(logits, allowed), allowed, strict=True) if k],
            ),
        ),
        hints=(
            "In step 2 the mask comes before softmax: which logit has an exp of 0?",
            "Take the logits 3 and 3, the second one forbidden: which two numbers does exp give, and what is their sum?",
            "Set what is forbidden to minus infinity, and use the softmax of chapter 05 unchanged.",
        ),
    ),
    Exercise(
        name="next_characters",
        points=2,
        question="the characters that may come next, sorted, when the whole text must become one of the given texts.",
        examples=(
            ((list(_WORDS), ""), ["f", "n", "t"]),
            ((list(_WORDS), "tr"), ["u"]),
            ((["yes", "yet", "no"], "ye"), ["s", "t"]),
            ((["10", "11", "12", "2"], "1"), ["0", "1", "2"]),
            ((["a", "ab", "aab", "aac"], "a"), ["a", "b"]),
            ((["tea", "tee", "motel", "two"], "te"), ["a", "e"]),
        ),
        inputs=_texts,
        mistakes=(
            Mistake(
                "What was written so far decides: which texts can it still become?",
                lambda texts, so_far: sorted({text[len(so_far)] for text in texts if len(text) > len(so_far)}),
            ),
            Mistake(
                "Each character once, please.",
                lambda texts, so_far: sorted(t[len(so_far)] for t in texts if t.startswith(so_far) and len(t) > len(so_far)),
            ),
            Mistake(
                "These are whole texts: only one character comes next.",
                lambda texts, so_far: sorted(t for t in texts if t.startswith(so_far)),
            ),
            Mistake(
                "That is always the first character: look behind what was written.",
                lambda texts, so_far: sorted({t[0] for t in texts if t.startswith(so_far)}),
            ),
        ),
        hints=(
            "The table of step 2 shows the mask after each token: which answers were still possible there?",
            "With the texts cat, car and dog: which can “ca” still become, and what follows it in each of them?",
            "Keep the texts that start with what was written and are longer; take one character of each, without repeats.",
        ),
    ),
    Exercise(
        name="missing_arguments",
        points=2,
        question="the names of the required arguments that a call lacks, in the order of the requirements.",
        examples=(
            ((_CALL, _REQUIRED), ["b"]),
            (({"tool": "multiply", "arguments": {}}, _REQUIRED), ["a", "b"]),
            (({"tool": "multiply", "arguments": {"b": 1, "a": 2}}, _REQUIRED), []),
            (({"tool": "temperature", "arguments": {"place": "Oslo"}}, _REQUIRED), ["city"]),
            (({"tool": "draw", "arguments": {"x": 0, "colors": 2}}, {"draw": ["y", "x", "color"]}), ["y", "color"]),
        ),
        inputs=_call,
        mistakes=(
            Mistake(
                "Those are there. Which are not?",
                lambda call, required: [n for n in required[call["tool"]] if n in call["arguments"]],
            ),
            Mistake(
                "Only the called tool's requirements count.",
                lambda call, required: [n for names in required.values() for n in names if n not in call["arguments"]],
            ),
            Mistake(
                "These were given, but are they required?",
                lambda call, required: [n for n in call["arguments"] if n not in required[call["tool"]]],
            ),
            Mistake(
                "How many is not enough: which ones?",
                lambda call, required: sum(n not in call["arguments"] for n in required[call["tool"]]),
            ),
        ),
        hints=(
            "A call is a dictionary, as in step 5: where is the tool's name in it, and where are its arguments' names?",
            "If a tool requires x and y, and the call has y and z: what do you tell the model?",
            "Look up the list of the called tool, and keep each name in it that is not a key of the call's arguments.",
        ),
    ),
)
