"""Prompt-lookup decoding against plain generate_text, in one run, by turns, with the same greedy text from both.

Copying tasks repeat much of their prompt (a text, code, a quotation); the others do not. The figure is the time per token
after the first, the median of ratios of neighbouring runs. The cache's types are those with which the engine computes
several tokens as it computes one; ``--own`` keeps the model's own settings, where nothing is drafted on most CPUs.

    uv run benchmarks/speculative.py [--model FILE] [--tokens 128] [--threads 2] [--repeats 5] [--own]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import median, report

import labkit

STORY = (
    "The keeper of the lighthouse climbed the stairs every evening at six, lit the lamp, and wrote the weather into a book. "
    "On the last day of the year no ship came, so she went down to the harbour and counted the boats that lay there. "
    "There were eleven of them, and the smallest had a red sail that nobody in the town had ever seen before. She asked the "
    "baker, the teacher and the old man at the gate, but none of them could tell her whose it was or where it came from. "
)
CODE = (
    "def area(width, height):\n    if width < 0 or height < 0:\n        raise ValueError('negative size')\n"
    "    return width * height\n\n\ndef volume(width, height, depth):\n    return area(width, height) * depth\n"
)
COPYING = {
    "repeat a text": f"{STORY}\n\nThe same text again, word for word:\n\n{STORY}\n\nAnd once more:\n\nThe keeper of the",
    "edit code": f"Before:\n{CODE}\nAfter, with checks:\n{CODE}\nAfter, with comments:\ndef area(width, height):\n",
    "quote": f'{STORY}\nIt says, word for word: "{STORY}"\nIt says, word for word: "The keeper of the lighthouse',
}  # fmt: skip
OTHERS = {
    "story": "Once upon a time in a small village by the sea there lived",
    "explanation": "Photosynthesis is the process by which",
    "letter": "Dear Sir or Madam,\n\nI am writing to you because",
}


def compare(model: labkit.Model, prompt: str, n_tokens: int, repeats: int) -> dict[str, Any]:
    """Generate by turns without and with drafts."""
    ratios, same = [], True
    for index in range(repeats + 1):
        found = {}
        for speculative in (None, "prompt-lookup")[:: -1 if index % 2 else 1]:
            labkit.generate_text(model, prompt, n_tokens, 0, speculative=speculative, stop=["\n\n\n", "And once more"])
            assert model.last_generation is not None
            found[speculative] = model.last_generation
        last = found["prompt-lookup"]
        same = same and last.token_ids == found[None].token_ids
        if index:  # the first one checks what can be trusted, once a model
            ratios.append(found[None].decode_s / last.decode_s)
    return {
        "speedup": median(ratios),
        "tokens_per_second": last.decode_tokens_per_second,
        "n_generated": last.n_generated,
        "n_drafted": last.n_drafted,
        "acceptance_rate": last.acceptance_rate,
        "equal_texts": same,
        "off": last.speculation_off,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; the bundled model by default")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--own", action="store_true", help="keep the settings that load_model chooses")
    given = parser.parse_args()
    options: dict[str, Any] = {} if given.own else {"flash_attn": True, "type_k": "q8_0", "type_v": "q8_0"}
    with labkit.load_model(given.model, n_ctx=1024, n_threads=given.threads, **options) as model:
        runs = {name: compare(model, prompt, given.tokens, given.repeats) for name, prompt in {**COPYING, **OTHERS}.items()}
    goals = {
        "copying: >= 1.3 times": given.own or all(runs[name]["speedup"] >= 1.3 for name in COPYING),
        "elsewhere: >= 0.97 times": all(runs[name]["speedup"] >= 0.97 for name in OTHERS),
        "every text the same": all(run["equal_texts"] for run in runs.values()),
    }
    labels = {
        "speedup": "with / without drafts", "tokens_per_second": "with, tokens/s", "n_generated": "tokens",
        "n_drafted": "drafted", "acceptance_rate": "accepted of them",
    }  # fmt: skip
    rows = [
        *((label, *(f"{run[name]:,.3g}" for run in runs.values())) for name, label in labels.items()),
        *((f"goal: {goal}", "met" if met else "MISSED", *[""] * (len(runs) - 1)) for goal, met in goals.items()),
    ]
    results = {"model": given.model.name if given.model else "bundled", "own_settings": given.own, **runs, "goals": goals}
    report("speculative", (f"{given.tokens} tokens, {given.threads} threads", *runs), rows, results)


if __name__ == "__main__":
    main()
