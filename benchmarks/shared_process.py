"""labkit in a process with other libraries' threads vs. labkit alone in a process.

Each run is a separate process that loads the bundled model, runs the other library, and then generates; runs with and
without it alternate. The ratio is the median over neighbouring runs.

    uv run [--with numexpr] benchmarks/shared_process.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys

from common import median, report

N_TOKENS = 96
RUN = """
import json, sys, labkit
model = labkit.load_model(n_ctx=1024)
{others}
speeds = []
for _ in range(3):
    labkit.generate_text(model, "Once upon a time", {n_tokens}, temperature=0)
    speeds.append(model.last_generation.decode_tokens_per_second)
print(json.dumps(sorted(speeds)[1]))
"""
LLAMA = """
import llama_cpp
other = llama_cpp.Llama(model.model_path, n_ctx=256, {threads}verbose=False)
other.create_completion("Hello", max_tokens=16)
"""
SITUATIONS = {
    "an idle Llama that generated, default threads": (LLAMA.format(threads=""), 0.95),
    "an idle Llama that generated, all threads": (
        LLAMA.format(threads="n_threads=labkit.measure_system(bandwidth=False).physical_cores, "),
        0.95,
    ),
    "a second labkit model that generated": (
        "other = labkit.load_model(n_ctx=256)\nlabkit.generate_text(other, 'Hello', 16)",
        0.95,
    ),
    "NumPy's BLAS threads": ("import numpy as np\na = np.random.rand(1500, 1500)\nfor _ in range(5): a @ a", 0.9),
    "numexpr's threads": (
        "import numexpr, numpy as np\na = np.random.rand(4_000_000)\nfor _ in range(5): numexpr.evaluate('sin(a) ** 2 + a')",
        0.9,
    ),
}


def speed(others: str) -> float:
    """Return decode tokens per second in a fresh process."""
    code = RUN.format(others=others, n_tokens=N_TOKENS)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(json.loads(result.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows, results, goals = [], {}, {}
    for name, (others, goal) in SITUATIONS.items():
        if "numexpr" in name and importlib.util.find_spec("numexpr") is None:
            rows.append((name, "not installed", "", ""))
            continue
        pairs = [(speed(others), speed("")) for _ in range(repeats)]
        ratio = median([shared / alone for shared, alone in pairs])
        results[name] = {"ratio": ratio, "pairs": pairs}
        goals[f"{name} >= {goal}"] = ratio >= goal
        rows.append((name, f"{median([a for a, _ in pairs]):.1f}", f"{median([b for _, b in pairs]):.1f}", f"{ratio:.3f}"))
    rows += [(f"goal: {goal}", "met" if met else "MISSED", "", "") for goal, met in goals.items()]
    headings = ("in the same process", "shared, tokens/s", "alone, tokens/s", "ratio")
    report("shared_process", headings, rows, {"situations": results, "goals": goals})


if __name__ == "__main__":
    main()
