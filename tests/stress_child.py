"""Generate forever and report how each interrupt ended; test_stress.py sends the interrupts.

Prints "ready N" before each generation N, then one JSON line: the time from the interrupt to the end of the call, and
whether the model answers correctly afterwards.
"""

from __future__ import annotations

import json
import sys
import time

import labkit

QUESTION, ANSWER_TOKENS = "1, 2, 3, 4,", 6


def main() -> None:
    model = labkit.load_model(sys.argv[1], n_ctx=2048)
    expected = labkit.generate_text(model, QUESTION, ANSWER_TOKENS, temperature=0)
    prompts = ["Hello", "word " * 1200]  # one is mostly decoding, the other is mostly a long prefill
    index = 0
    while True:
        stopped = None
        try:
            print(f"ready {index}", flush=True)
            while True:
                labkit.generate_text(model, prompts[index % 2], 200, temperature=1.5, seed=index)
        except KeyboardInterrupt:
            stopped = time.time()
        right = labkit.generate_text(model, QUESTION, ANSWER_TOKENS, temperature=0) == expected
        print(json.dumps({"stopped": stopped, "right": right}), flush=True)
        index += 1


if __name__ == "__main__":
    main()
