"""generate_batch vs. the same prompts one by one, with llama-cpp-python's class and with generate_text.

All three continue the same prompts greedily by the same number of tokens, in one run, with the same number of threads. The
speed is generated tokens over wall time, prompt processing included.

    uv run benchmarks/batch.py [--model FILE] [--prompts 16] [--tokens 32] [--threads 2] [--repeats 1]
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp
from common import median, report

import labkit
from labkit.system import peak_resident_bytes, reset_peak_resident

OPENINGS = (
    "The lighthouse keeper wrote in his diary that", "A bakery at the corner of two streets sells", "When the train stopped",
    "My grandmother always said that a garden", "The committee met on Tuesday to decide whether", "Sixteen ships left",
    "In the library no one had noticed the door that", "A clock that runs backwards is of use to", "The river rises and",
    "No one knows who painted the small portrait of", "The recipe asks for three eggs and", "On the last day of the year",
)  # fmt: skip
MIB = 1024**2


def prompts(count: int) -> list[str]:
    """Return different prompts of about ten tokens."""
    return [f"{index + 1}. {OPENINGS[index % len(OPENINGS)]}" for index in range(count)]


def timed(function: Callable[[], int], repeats: int) -> tuple[float, float]:
    """Return generated tokens per second (median) and the peak RSS in bytes."""
    speeds = []
    reset_peak_resident()
    for _ in range(repeats):
        begun = time.perf_counter()
        speeds.append(function() / (time.perf_counter() - begun))
    return median(speeds), float(peak_resident_bytes())


def by_llama(llama: Any, texts: list[str], n_tokens: int) -> int:
    """Continue the prompts one by one with create_completion; return the number of generated tokens."""
    return sum(
        llama.create_completion(text, max_tokens=n_tokens, temperature=0)["usage"]["completion_tokens"] for text in texts
    )


def by_text(model: labkit.Model, texts: list[str], n_tokens: int, found: list[str]) -> int:
    """Continue the prompts one by one with generate_text; return the number of generated tokens."""
    found.clear()
    count = 0
    for text in texts:
        found.append(labkit.generate_text(model, text, n_tokens, 0))
        assert model.last_generation is not None
        count += model.last_generation.n_generated
    return count


def llama_side(file: Path, texts: list[str], n_tokens: int, n_threads: int, repeats: int) -> dict[str, Any]:
    """Measure llama-cpp-python's class."""
    llama = llama_cpp.Llama(str(file), n_ctx=2048, n_threads=n_threads, n_threads_batch=n_threads, verbose=False)
    by_llama(llama, texts[:1], 4)
    speed, _ = timed(lambda: by_llama(llama, texts, n_tokens), repeats)
    return {"llama_tokens_per_second": speed}


def labkit_side(file: Path, texts: list[str], n_tokens: int, n_threads: int, repeats: int) -> dict[str, Any]:
    """Measure generate_text one by one, and generate_batch."""
    alone: list[str] = []
    results: list[labkit.BatchResult] = []

    def together() -> int:
        results.append(labkit.generate_batch_results(model, texts, n_tokens, 0))
        return results[-1].n_generated

    with labkit.load_model(file, n_ctx=2048, n_threads=n_threads) as model:
        labkit.generate_text(model, "warm up", 4, 0)
        one_by_one, _ = timed(lambda: by_text(model, texts, n_tokens, alone), repeats)
        ours, peak = timed(together, repeats)
    cells = 256 * -(-max(item.n_prompt + n_tokens for item in results[-1].answers) // 256)
    n_parallel = results[-1].n_parallel
    expected = labkit.estimate_memory_usage(file, cells * n_parallel, n_seq=n_parallel, method="formula")
    own_cache = labkit.estimate_memory_usage(file, 2048, method="formula").kv_cache_bytes
    return {
        "n_parallel": n_parallel,
        "tokens_per_second": ours,
        "generate_text_tokens_per_second": one_by_one,
        "over_generate_text": ours / one_by_one,
        "equal_texts": sum(a == b for a, b in zip(results[-1].texts, alone, strict=True)),
        "peak_resident_mib": peak / MIB,
        "weights_and_caches_mib": (expected.total_bytes + own_cache) / MIB,
    }


def compare(path: Path | None, texts: list[str], n_tokens: int, n_threads: int, repeats: int) -> dict[str, Any]:
    """Measure both sides on one file, each in a separate process.

    In one process, idle OpenMP threads of the first side would slow down the second: libgomp's threads spin only while there
    are no more threads than processors.
    """
    file = path or labkit.bundled_model_path()
    found: dict[str, Any] = {"prompts": len(texts)}
    for side in (llama_side, labkit_side):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found |= pool.submit(side, file, texts, n_tokens, n_threads, repeats).result()
    return {**found, "over_llama": found["tokens_per_second"] / found["llama_tokens_per_second"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file of a 7B shape; the bundled model by default")
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 10])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    runs = {
        str(count): compare(given.model, prompts(count), given.tokens, given.threads, given.repeats)
        for count in given.prompts
    }
    least = {16: 4.0, 10: 2.8} if given.model else dict.fromkeys(given.prompts, 2.0)
    goals = {
        f"{count} prompts: >= {ratio} times llama-cpp-python": runs[str(count)]["over_llama"] >= ratio
        for count, ratio in least.items()
        if str(count) in runs
    }
    if given.model and "16" in runs:
        goals["16 prompts: > 10 tokens/s"] = runs["16"]["tokens_per_second"] > 10
    goals["peak RSS: at most 5 % above the prediction"] = all(
        run["peak_resident_mib"] <= 1.05 * run["weights_and_caches_mib"] for run in runs.values()
    )
    labels = {
        "n_parallel": "sequences per batch", "tokens_per_second": "generate_batch, tokens/s",
        "generate_text_tokens_per_second": "generate_text one by one, tokens/s",
        "llama_tokens_per_second": "create_completion one by one, tokens/s",
        "over_llama": "generate_batch / create_completion",
        "over_generate_text": "generate_batch / generate_text", "equal_texts": "texts equal to those of generate_text",
        "peak_resident_mib": "peak RSS, MiB", "weights_and_caches_mib": "predicted weights, caches and buffers, MiB",
    }  # fmt: skip
    rows = [
        *((label, *(f"{run[name]:,.4g}" for run in runs.values())) for name, label in labels.items()),
        *((f"goal: {goal}", "met" if met else "MISSED", *[""] * (len(runs) - 1)) for goal, met in goals.items()),
    ]
    headings = (f"{given.tokens} tokens each, {given.threads} threads", *(f"{count} prompts" for count in runs))
    report("batch", headings, rows, {"model": "7B shape" if given.model else "bundled", **runs, "goals": goals})


if __name__ == "__main__":
    main()
