"""Time from a fresh interpreter to the first token: labkit vs. llama_cpp.Llama, on the bundled model.

Whole processes are timed, alternating: import, load, read a short prompt, generate one token.

    uv run benchmarks/start_up.py [--repeats 10]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from common import median, report

import labkit

OURS = "import labkit; model = labkit.load_model(); labkit.generate_text(model, 'Once upon a time', max_tokens=1)"
CHAT = (
    "import labkit; model = labkit.load_model(); "
    "labkit.generate_chat(model, [{'role': 'user', 'content': 'Hello'}], max_tokens=1)"
)
THEIRS = (
    f"import llama_cpp; model = llama_cpp.Llama({str(labkit.bundled_model_path())!r}, n_ctx=2048, verbose=False); "
    "model.create_completion('Once upon a time', max_tokens=1)"
)
THEIR_CHAT = (
    THEIRS.split("; ")[0]
    + "; "
    + THEIRS.split("; ")[1]
    + ("; model.create_chat_completion([{'role': 'user', 'content': 'Hello'}], max_tokens=1)")
)


# Both sides keep the bytecode of what they import, as Python does by default.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(code: str) -> float:
    """Return the wall time of a process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=_ENVIRONMENT)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    rows, results = [], {}
    for name, ours, theirs in (("generate_text", OURS, THEIRS), ("generate_chat", CHAT, THEIR_CHAT)):
        seconds(ours), seconds(theirs)
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
        ratio = median([a for a, _ in pairs]) / median([b for _, b in pairs])
        results[name] = {
            "ratio": ratio,
            "neighbours": median([a / b for a, b in pairs]),
            "best": min(pairs)[0] / min(b for _, b in pairs),
        }
        rows.append((name, *(f"{median([pair[side] for pair in pairs]):.2f}" for side in (0, 1)), f"{ratio:.2f}"))
    goals = {"generate_text: at most 1.10 times Llama": results["generate_text"]["ratio"] <= 1.10}
    rows += [(f"goal: {goal}", "met" if met else "MISSED", "", "") for goal, met in goals.items()]
    report("start_up", ("time to first token", "labkit, s", "Llama, s", "ratio"), rows, {**results, "goals": goals})


if __name__ == "__main__":
    main()
