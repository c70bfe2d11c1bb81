"""Huge pages for weights and caches: labkit with and without its request for them, and `llama_cpp.Llama`.

Each side is a process that loads the model (timed: the file is cached), reads a prompt of 128 tokens and generates up to 96
in at most 2 seconds, three times. Sides alternate, with one thread and with all physical cores; ratios are of medians.
`Llama` maps the file, its default; llama.cpp copies most weights of this type to its own memory.

    uv run benchmarks/huge_pages.py [--repeats 5] [--shape 1B] [--n-ctx 2048]

The model is synthetic: a real shape, random weights, built in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from busy_machine import by_labkit, by_llama
from common import median, report

import labkit
from labkit.system import physical_cores_available, resident_bytes
from labkit.system.huge_pages import huge_pages_setting

SIDES = ("labkit", "without", "Llama")


def serve(side: str, path: str, n_ctx: int, n_threads: int) -> None:
    """Load once and measure three times; print the medians."""
    from labkit.engine import native

    if side == "without":
        native.request_huge_pages = lambda n_bytes: None
    begun = time.perf_counter()
    model: Any
    if side == "Llama":
        model = native.Llama(path, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, verbose=False)
    else:
        model = labkit.load_model(path, n_ctx=n_ctx, n_threads=n_threads)
    load_s = time.perf_counter() - begun
    measure = by_llama if side == "Llama" else by_labkit
    measure(model, 1)
    runs = [measure(model, 1) for _ in range(3)]
    found = {part: median([run[part] for run in runs]) for part in ("decode", "prefill")}
    print(json.dumps({**found, "load_s": load_s, "resident_bytes": resident_bytes()}))


def run(side: str, path: Path, n_ctx: int, n_threads: int) -> dict[str, float]:
    """Measure one side in a separate process."""
    command = [sys.executable, __file__, "--serve", side, str(path), str(n_ctx), str(n_threads)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(answer.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shape", default="1B")
    parser.add_argument("--n-ctx", type=int, default=2048)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        side, path, n_ctx, n_threads = arguments.serve
        serve(side, path, int(n_ctx), int(n_threads))
        return
    rows, results = [], {}
    with tempfile.TemporaryDirectory() as folder:
        model = labkit.build_ghost_model(Path(folder) / "ghost.gguf", shape=arguments.shape, quantization="Q4_K_M")
        for n_threads in sorted({1, physical_cores_available()}):
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for _ in range(arguments.repeats):
                for side in SIDES:
                    runs[side].append(run(side, model, arguments.n_ctx, n_threads))
            for part in ("decode", "prefill", "load_s", "resident_bytes"):
                found = {side: median([one[part] for one in runs[side]]) for side in SIDES}
                results[f"{part}, n_threads {n_threads}"] = found
                ratios = (found["labkit"] / found["without"], found["labkit"] / found["Llama"])
                rows.append(
                    (n_threads, part, *(f"{value:,.4g}" for value in found.values()), *(f"{ratio:.2f}" for ratio in ratios))
                )
    headings = ("threads", "part", *SIDES, "labkit / without", "labkit / Llama")
    report(f"huge_pages, {arguments.shape}, setting {huge_pages_setting()}", headings, rows, {"medians": results})


if __name__ == "__main__":
    main()
