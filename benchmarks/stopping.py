"""Time from `model.cancel()` or Ctrl-C until the call returns, for texts, prompts and batches: at most a second.

A call is ended at a random moment, on an otherwise idle machine and next to a busy process in a separate session (like a
browser). The reference is the promised second.

    uv run benchmarks/stopping.py [--repeats 20]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from busy_machine import others
from common import median, report

import labkit

PROMISED_S = 1.0
LONG_PROMPT = "The story goes on: " + "and on " * 900


def calls(model: labkit.Model) -> dict[str, Callable[[], object]]:
    """Return calls that take longer than the wait before they are ended."""
    return {
        "a text": lambda: labkit.generate_text(model, "Once upon a time", 1000, temperature=0),
        "a prompt of 1,800 tokens": lambda: (model.reset(), labkit.generate_text(model, LONG_PROMPT, 1, temperature=0)),
        "a batch of 8": lambda: labkit.generate_batch(model, ["Once upon a time"] * 8, max_tokens=200, temperature=0.5),
    }


def seconds_to_end(call: Callable[[], object], end: Callable[[], object], wait_s: float) -> float:
    """Return the seconds from ``end`` in another thread until the call returns."""
    asked_s = []

    def ask() -> None:
        time.sleep(wait_s)
        asked_s.append(time.perf_counter())
        end()

    thread = threading.Thread(target=ask)
    thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        call()
    ended_s = time.perf_counter()
    thread.join()
    if ended_s < asked_s[0]:
        raise RuntimeError("the call ended by itself before it was to be ended: it needs a longer text")
    return ended_s - asked_s[0]


def measure(model: labkit.Model, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of some calls of each kind, each ended in both ways."""
    moments = random.Random(0)
    ends = {"cancel": model.cancel, "Ctrl-C": lambda: os.kill(os.getpid(), signal.SIGINT)}
    return {
        f"{what}, {how}": [seconds_to_end(call, end, moments.uniform(0.1, 0.4)) for _ in range(repeats)]
        for what, call in calls(model).items()
        for how, end in ends.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            "bundled": labkit.bundled_model_path(),
            "1B, synthetic": labkit.build_ghost_model(Path(folder) / "ghost.gguf", shape="1B", quantization="Q4_K_M"),
        }
        for name, path in paths.items():
            with labkit.load_model(path, n_ctx=2048) as model:
                for n_others, where in enumerate(("", ", next to a busy process")):
                    with others(n_others, own_session=True, burst=False):
                        found |= {f"{name}, {case}{where}": times for case, times in measure(model, repeats).items()}
    rows = [
        (case, f"{1000 * median(times):.0f} ms, {1000 * max(times):.0f} ms", f"{max(times) / PROMISED_S:.2f}")
        for case, times in found.items()
    ]
    goals = {case: max(times) <= PROMISED_S for case, times in found.items()}
    rows += [(f"goal: {case}", "MISSED", "") for case, met in goals.items() if not met]
    headings = ("ended", "median, longest", "longest / the promised second")
    longest_ms = {case: 1000 * max(times) for case, times in found.items()}
    report("stopping", headings, rows, {"longest_ms": longest_ms, "goals": goals})


if __name__ == "__main__":
    main()
