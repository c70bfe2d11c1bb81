"""Exercises of 02_chat_and_tokens."""

import random

from labkit.course.exercise import Exercise, Inputs, Mistake

Messages = list[dict[str, str]]

_START, _END, _OPEN = "<|im_start|>", "<|im_end|>", "<|im_start|>assistant\n"
_WORDS = ("Hi", "Why?", "is", "a llama", "über", "了", "two\nlines", "", "3.14", "good")
_CHARACTERS = "ab é了狗🦙!"
_RULES = {"role": "system", "content": "Be brief."}
_TALK = [
    _RULES,
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": " Hello,\nAda! "},
    {"role": "user", "content": "Why?"},
]


def _messages(generator: random.Random) -> Inputs:
    roles = ["system"] * generator.randint(0, 1) + ["user", "assistant"] * generator.randint(0, 3) + ["user"]
    return ([{"role": role, "content": " ".join(generator.sample(_WORDS, generator.randint(1, 4)))} for role in roles],)


def _tokens(generator: random.Random) -> Inputs:
    data = "".join(generator.choice(_CHARACTERS) for _ in range(generator.randint(1, 12))).encode()
    data = data[: generator.randint(max(1, len(data) - 4), len(data))]
    tokens = []
    while data:
        size = generator.randint(1, 4)
        tokens.append(list(data[:size]))
        data = data[size:]
    return (tokens,)


def _turns(generator: random.Random) -> Inputs:
    sizes = [
        generator.choice((generator.randint(10, 60), generator.randint(60, 500))) for _ in range(generator.randint(1, 12))
    ]
    kept = generator.randint(0, len(sizes))
    exact = sum(sizes[len(sizes) - kept :])
    return sizes, exact + generator.choice((0, generator.randint(0, 60), generator.randint(0, 200)))


def _render(messages: Messages, *, after_role: str = "\n", after_end: str = "\n", opening: str = _OPEN) -> str:
    parts = [f"{_START}{each['role']}{after_role}{each['content']}{_END}{after_end}" for each in messages]
    return "".join(parts) + opening


def _joined(tokens: list[list[int]]) -> bytes:
    return b"".join(map(bytes, tokens))


def _alone(tokens: list[list[int]], errors: str) -> str:
    return "".join(bytes(token).decode(errors=errors) for token in tokens)


def _kept(sizes: list[int], room: int, *, spare: int = 0) -> int:
    count = 0
    for size in sizes:
        room -= size
        if room < spare:
            break
        count += 1
    return count


def _skips(sizes: list[int], room: int) -> int:
    count = 0
    for size in reversed(sizes):
        if size <= room:
            room -= size
            count += 1
    return count


EXERCISES = (
    Exercise(
        name="shown_so_far",
        points=2,
        question="the text of all complete characters; each token is a list of bytes.",
        examples=(
            (([[72, 105], [33]],), "Hi!"),
            (([[228, 186, 134], [231]],), "了"),
            (([[231], [139], [151], [33]],), "狗!"),
            (([[99, 97, 102, 195], [169]],), "café"),
            (([[240, 159], [166]],), ""),
            (([[72, 105, 195]],), "Hi"),
        ),
        inputs=_tokens,
        mistakes=(
            Mistake("A token may end in the middle of a character: what did you drop?", lambda t: _alone(t, "ignore")),
            Mistake("You decode each token separately, and half a character is not text.", lambda t: _alone(t, "replace")),
            Mistake(
                "The last character is not complete yet: the user would see a �.",
                lambda tokens: _joined(tokens).decode(errors="replace"),
            ),
            Mistake("A byte is not a character: these are UTF-8.", lambda tokens: "".join(map(chr, _joined(tokens)))),
        ),
        hints=(
            "Step 2 showed a token that is a third of a character: what does labkit wait for before it shows anything?",
            "Put the two bytes of one character into two tokens: at what moment are they next to each other?",
            "Decoding comes last, and only once: what must happen to all the lists of bytes before it?",
        ),
    ),
    Exercise(
        name="chatml_prompt",
        points=2,
        question="only the given messages as one text, each as ChatML writes it, with the answer opened.",
        examples=(
            (([{"role": "user", "content": "Hi"}],), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
            (
                (_TALK,),
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                "<|im_start|>assistant\n Hello,\nAda! <|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
            ),
        ),
        inputs=_messages,
        mistakes=(
            Mistake(
                "How does the model know that it is its turn to answer?", lambda messages: _render(messages, opening="")
            ),
            Mistake("What comes after each <|im_end|>?", lambda messages: _render(messages, after_end="")),
            Mistake("What comes between a role and its content?", lambda messages: _render(messages, after_role=" ")),
            Mistake(
                "The opened answer is a whole line: its last character is missing.",
                lambda messages: _render(messages).removesuffix("\n"),
            ),
            Mistake(
                "You closed the answer: the model has to continue it.",
                lambda messages: _render(messages, opening=f"{_OPEN}{_END}\n"),
            ),
            Mistake("It contains only one message.", lambda messages: _render(messages[-1:])),
        ),
        hints=(
            "Step 3 says in words what the template writes for each message, and what it writes once, at the end.",
            "Write down what a single message becomes, character by character: at which two places is there a new line?",
            "Start with an empty text and add a piece per message: what belongs to none of them and comes at the end?",
        ),
    ),
    Exercise(
        name="turns_kept",
        points=2,
        question="how many of the newest turns fit into the room, without a gap between them.",
        examples=(
            (([141, 141, 300], 450), 2),
            (([100, 900, 100, 100], 300), 2),
            (([50, 60], 110), 2),
            (([500], 400), 0),
            (([400, 20, 30, 10], 100), 3),
        ),
        inputs=_turns,
        mistakes=(
            Mistake("Which end of the list is the newest?", _kept),
            Mistake("You leave one out and keep older ones: would the conversation still make sense?", _skips),
            Mistake("Is room that is filled exactly too small?", lambda sizes, room: _kept(sizes[::-1], room, spare=1)),
            Mistake("That is how many are dropped.", lambda sizes, room: len(sizes) - _kept(sizes[::-1], room)),
        ),
        hints=(
            "Step 6 gives one option, to drop the oldest turns: what is kept is one unbroken piece of the conversation.",
            "Take sizes of 30, 20 and 10 and a room of 35: how much do the last one, the last two and all three take?",
            "Add up from the newest turn backwards: when do you stop, and how many turns have you passed by then?",
        ),
    ),
)
