"""RSS after loading with the defaults of labkit and of llama-cpp-python, and the buffers of a sliding-window model.

Each load runs in a separate process. RSS is read after generating one token, so it includes mapped weights whose pages were
read. The 7B and the sliding-window model have real shapes and random weights (synthetic, built here in a temporary folder:
4.2 GB of disk); the bundled model is real.

    uv run benchmarks/load_memory.py [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import report

import labkit
from labkit.units import format_bytes

CHILD = """
import json, sys
import labkit.engine.loading, llama_cpp  # both sides load the same modules
from labkit.system import resident_bytes
path, n_ctx, which = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if which == "labkit":
    import labkit
    model = labkit.load_model(path, n_ctx=n_ctx)
    log = model.load_log
    labkit.generate_text(model, "Hello", 1, temperature=0)
else:
    import llama_cpp, ctypes
    lines = []
    callback = llama_cpp.llama_log_callback(lambda level, text, data: lines.append(text.decode("utf-8", "replace")))
    import llama_cpp._logger
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    model = llama_cpp.Llama(path, n_ctx=n_ctx, verbose=False)
    log = "".join(lines)
    model.create_completion("Hello", max_tokens=1, temperature=0)
print(json.dumps({"resident_bytes": resident_bytes(), "log": log}))
"""


def load(path: Path, n_ctx: int, which: str) -> dict[str, Any]:
    """Load in a child process; return its RSS, and the cache and compute buffers from the engine's log."""
    command = [sys.executable, "-c", CHILD, str(path), str(n_ctx), which]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    sizes = {
        "cache_bytes": r"KV buffer size = +([0-9.]+) MiB",
        "compute_bytes": r"compute buffer size = +([0-9.]+) MiB",
    }
    found = {name: int(sum(map(float, re.findall(pattern, answer["log"]))) * 2**20) for name, pattern in sizes.items()}
    return {"resident_bytes": answer["resident_bytes"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep the synthetic models here, and reuse existing ones")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        measure(folder or Path(temporary))


def measure(folder: Path) -> None:
    """Build missing models, load all of them, and report."""
    seven, window = folder / "llama-7B.Q4_K_M.gguf", folder / "gemma3-270M.Q8_0.gguf"
    if not seven.exists():
        labkit.build_ghost_model(seven, shape="7B", quantization="Q4_K_M")
    if not window.exists():
        labkit.build_ghost_model(window, architecture="gemma3", shape="270M", quantization="Q8_0")
    cases = {
        "bundled SmolLM2-135M Q4_1, n_ctx 2,048": (labkit.bundled_model_path(), 2048),
        "7B shape Q4_K_M (synthetic), n_ctx 2,048": (seven, 2048),
        "sliding window, 262k vocabulary (synthetic), n_ctx 8,192": (window, 8192),
    }
    results = {name: {which: load(*case, which) for which in ("labkit", "llama_cpp")} for name, case in cases.items()}
    rows, ratios = [], {}
    for name, result in results.items():
        ours, theirs = result["labkit"], result["llama_cpp"]
        buffers = [side["cache_bytes"] + side["compute_bytes"] for side in (ours, theirs)]
        ratios[name] = {
            "resident": ours["resident_bytes"] / theirs["resident_bytes"],
            "buffers": buffers[0] / buffers[1],
        }
        resident = [format_bytes(side["resident_bytes"]) for side in (ours, theirs)]
        shown = (f"{ratios[name]['resident']:.2f}", *map(format_bytes, buffers), f"{ratios[name]['buffers']:.2f}")
        rows.append((name, *resident, *shown))
    _, repacked, windowed = ratios.values()
    goals = {
        "RSS never above llama-cpp-python's": max(round(ratio["resident"], 2) for ratio in ratios.values()) <= 1.0,
        "RSS at most 0.70 for repacked weights": repacked["resident"] <= 0.70,
        "buffers at most 0.20 with a sliding window": windowed["buffers"] <= 0.20,
    }
    rows += [(f"goal: {goal}", "met" if met else "MISSED", "", "", "", "", "") for goal, met in goals.items()]
    headings = ("model", "RSS: labkit", "Llama(…)", "ratio", "cache + compute: labkit", "Llama(…)", "ratio")
    report("load_memory", headings, rows, {"ratios": ratios, "results": results, "goals": goals})


if __name__ == "__main__":
    main()
