"""benchmark_inference vs. llama.cpp's own counters, and a bare loop.

Two comparisons, each a ratio of two sides in one run:

- one run, two clocks: the engine's tests timed by the wall clock, as in `benchmark_inference`, and by
  ``llama_perf_context``, which counts the time inside llama_decode;
- two loops: benchmark_inference's results and a bare loop of llama_decode on the same tokens, timed by
  ``llama_perf_context``, alternating. Other programs can only slow a run, so the best runs are compared; the noise floor is
  one half of the bare loop's runs over the other half.

    uv run benchmarks/benchmark_agreement.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import ctypes
from typing import Any

from common import median, report

import labkit
from labkit.benchmark import timing
from labkit.engine.native import C

N_PROMPT, N_GEN = 256, 64


def bare_loop(model: Any, prompt: list[int], generated: list[int]) -> tuple[float, float]:
    """Return tokens per second for a prompt and for given tokens after it, from llama.cpp's counters."""
    ctx = model.native.ctx
    C.llama_memory_clear(C.llama_get_memory(ctx), False)
    C.llama_perf_context_reset(ctx)
    tokens = (C.llama_token * len(prompt))(*prompt)
    for start in range(0, len(prompt), model.n_batch):
        address = ctypes.cast(ctypes.byref(tokens, start * 4), ctypes.POINTER(C.llama_token))
        C.llama_decode(ctx, C.llama_batch_get_one(address, min(model.n_batch, len(prompt) - start)))
    C.llama_synchronize(ctx)
    chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
    C.llama_sampler_chain_add(chain, C.llama_sampler_init_greedy())
    for token in generated:
        C.llama_sampler_sample(chain, ctx, -1)  # not timed, but its effect on the CPU's caches is part of the loop
        C.llama_decode(ctx, C.llama_batch_get_one((C.llama_token * 1)(token), 1))
        C.llama_synchronize(ctx)
    found = C.llama_perf_context(ctx)
    C.llama_sampler_free(chain)
    model.clear_memory()
    return 1e3 * found.n_p_eval / found.t_p_eval_ms, 1e3 * found.n_eval / found.t_eval_ms


def two_clocks(model: Any, repeats: int) -> dict[str, float]:
    """Counters over wall clock for the same runs (median)."""
    runs = [timing.time_engine(model, N_PROMPT, N_GEN) for _ in range(repeats)]
    return {
        "prefill": median([run.counted_prompt_s / run.prompt_s for run in runs]),
        "decode": median([run.counted_decode_s / run.decode_s for run in runs]),
    }


def two_loops(model: Any, text: str, repeats: int) -> dict[str, float]:
    """Ratios of best runs: benchmark_inference over the bare loop, and the bare loop over itself."""
    prompt = model.tokenize(text.encode())
    labkit.generate_text(model, text, N_GEN, temperature=0)
    generated = list(model.last_generation.token_ids)[: N_GEN - 1]
    bare: list[tuple[float, float]] = []
    results: list[labkit.BenchmarkResult] = []
    for _ in range(repeats):
        bare.append(model.compute(lambda _: bare_loop(model, prompt, generated)))
        results.append(labkit.benchmark_inference(model, text, max_tokens=N_GEN, warmup=0, repeats=1, engine=False))
        bare.append(model.compute(lambda _: bare_loop(model, prompt, generated)))
    runs = [run for result in results for run in result.runs]
    best_prompt, best_decode = (max(pair[part] for pair in bare[1::2]) for part in (0, 1))  # one per result
    return {
        "prefill": max(run.n_prompt / run.prefill_s for run in runs) / best_prompt,
        "decode": max((N_GEN - 1) / (run.engine_decode_s or 1) for run in runs) / best_decode,
        "user_decode": max((N_GEN - 1) / run.decode_s for run in runs) / best_decode,
        "prefill_noise": max(pair[0] for pair in bare[::2]) / max(pair[0] for pair in bare[1::2]),
        "decode_noise": max(pair[1] for pair in bare[::2]) / max(pair[1] for pair in bare[1::2]),
        "bare_prefill_tokens_per_second": best_prompt,
        "bare_decode_tokens_per_second": best_decode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    with labkit.load_model(n_ctx=512, n_threads=args.threads) as model:
        text = "and on " * (N_PROMPT // 2)
        labkit.generate_text(model, text, 8, temperature=0)
        clocks = two_clocks(model, args.repeats)
        loops = two_loops(model, text, args.repeats)
        gap = labkit.benchmark_inference(model, text, max_tokens=N_GEN, repeats=args.repeats).gap
    goals = {
        "one run, two clocks: within 2 %": all(abs(ratio - 1) <= 0.02 for ratio in clocks.values()),
        "two loops: within 2 %": all(abs(loops[part] - 1) <= 0.02 for part in ("prefill", "decode")),
    }
    rows = [
        *((f"counters / wall clock, one run, {part}", f"{ratio:.4f}") for part, ratio in clocks.items()),
        *((f"benchmark_inference / bare loop, {part}", f"{loops[part]:.4f}") for part in ("prefill", "decode")),
        ("user's decode speed / bare loop", f"{loops['user_decode']:.4f}"),
        *((f"bare loop / bare loop (noise), {part}", f"{loops[f'{part}_noise']:.4f}") for part in ("prefill", "decode")),
        *((name.replace("_", " "), f"{1e3 * seconds:.4f} ms") for name, seconds in (gap or {}).items()),
        *((f"goal: {goal}", "met" if met else "MISSED") for goal, met in goals.items()),
    ]
    results = {"clocks": clocks, "loops": loops, "gap": dict(gap or {}), "goals": goals}
    report("benchmark_agreement", ("measurement", "ratio"), rows, results)


if __name__ == "__main__":
    main()
