"""Time to first token in each of ten turns of a chat: it should not grow with the history.

Every turn sends the whole history again. What the model has read before is not read again, so that a late turn should begin
about as soon as an early one.

    uv run benchmarks/chat_turns.py [--repeats 5]
"""

from __future__ import annotations

import argparse

from common import median, report

import labkit

TURNS = 10
QUESTIONS = [f"Question {n}: name one thing that is {colour}, please." for n, colour in enumerate(
    ("red", "green", "blue", "white", "black", "brown", "grey", "pink", "gold", "clear"), 1)]  # fmt: skip


def talk(model: labkit.Model) -> list[tuple[float, int, int]]:
    """Return for each turn the time to first token, the number of prompt tokens, and how many of them were reused."""
    messages = [{"role": "system", "content": "You answer in one short sentence."}]
    turns = []
    for question in QUESTIONS[:TURNS]:
        messages.append({"role": "user", "content": question})
        answer = labkit.generate_chat(model, messages, max_tokens=32, temperature=0)
        messages.append({"role": "assistant", "content": answer})
        done = model.last_generation
        turns.append((done.prefill_s, done.n_prompt, done.n_reused))
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with labkit.load_model(n_ctx=2048) as model:
        talk(model)
        talks = [talk(model) for _ in range(repeats)]
    times = [median([turns[turn][0] for turns in talks]) for turn in range(TURNS)]
    rows = [(turn + 1, talks[0][turn][1], talks[0][turn][2], f"{1000 * times[turn]:.0f}") for turn in range(TURNS)]
    ratio = times[-1] / times[1]
    goals = {"turn 10 / turn 2 <= 1.3": ratio <= 1.3}
    rows += [(f"turn 10 / turn 2: {ratio:.2f}", "", "", "met" if ratio <= 1.3 else "MISSED")]
    headings = ("turn", "prompt tokens", "reused", "time to first token, ms")
    report("chat_turns", headings, rows, {"seconds": times, "ratio": ratio, "goals": goals})


if __name__ == "__main__":
    main()
