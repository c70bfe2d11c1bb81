"""measure_perplexity vs. a bare decode loop over the same windows, on the bundled model.

The loop calls llama_decode on whole batches of the same tokens, in a context of the same size and in the model's thread:
pure prompt processing, with one unused row of logits per batch. measure_perplexity needs a row for every second token,
which is more work for the last layer, plus the arithmetic on these rows. A second loop requests the same rows and drops
them, which isolates the cost of the arithmetic. Runs alternate. Other programs can only slow a run, so the ratio is that of
the best runs; the table also has the median ratio of neighbouring runs.

    uv run benchmarks/perplexity_speed.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from common import median, report

import labkit
from labkit.engine.native import C
from labkit.quality.scoring import score_windows
from labkit.quality.windows import text_windows

N_CTX = 512


def bare_loop(model: Any, windows: list[Any]) -> float:
    """Return tokens per second for llama_decode alone."""
    params = type(model.context_params).from_buffer_copy(model.context_params)
    params.n_ctx, params.n_batch, params.n_ubatch = N_CTX, N_CTX, min(N_CTX, model.settings.n_ubatch)
    ctx = C.llama_init_from_model(model.native.model, params)
    started = time.perf_counter()
    for window in windows:
        C.llama_memory_clear(C.llama_get_memory(ctx), True)
        tokens = (C.llama_token * len(window.tokens))(*window.tokens.tolist())
        C.llama_decode(ctx, C.llama_batch_get_one(tokens, len(window.tokens)))
        C.llama_synchronize(ctx)
    elapsed_s = time.perf_counter() - started
    C.llama_free(ctx)
    return sum(len(window.tokens) for window in windows) / elapsed_s


def same_rows(model: Any, windows: list[Any]) -> float:
    """Return tokens per second if the same rows of logits are computed and dropped."""
    started = time.perf_counter()
    score_windows(model, windows, N_CTX, lambda _rows, _targets: None)
    return sum(len(window.tokens) for window in windows) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with labkit.load_model(n_ctx=N_CTX) as model:
        windows = text_windows(model, labkit.evaluation_text(), N_CTX)
        sides = {
            "ours": lambda: labkit.measure_perplexity(model, n_ctx=N_CTX).tokens_per_second,
            "bare": lambda: float(model.compute(lambda _: bare_loop(model, windows))),
            "rows": lambda: same_rows(model, windows),
        }
        model.compute(lambda _: bare_loop(model, windows[:1]))
        runs = [{name: side() for name, side in sides.items()} for _ in range(repeats)]
    best = {name: max(run[name] for run in runs) for name in sides}
    ratios = {name: best["ours"] / best[name] for name in ("bare", "rows")}
    neighbours = {name: median([run["ours"] / run[name] for run in runs]) for name in ("bare", "rows")}
    goals = {"perplexity >= 0.9 of a bare decode loop": ratios["bare"] >= 0.9}
    rows = [
        ("measure_perplexity / bare decode loop", f"{ratios['bare']:.3f}", f"{neighbours['bare']:.3f}"),
        ("measure_perplexity / the same rows of logits, dropped", f"{ratios['rows']:.3f}", f"{neighbours['rows']:.3f}"),
        ("bare decode loop, tokens/s", f"{best['bare']:.0f}", f"{np.median([run['bare'] for run in runs]):.0f}"),
        *((f"goal: {goal}", "met" if met else "MISSED", "") for goal, met in goals.items()),
    ]
    results = {"ratios": ratios, "neighbours": neighbours, "bare_tokens_per_second": best["bare"], "goals": goals}
    report("perplexity_speed", ("", "best runs", "median of neighbours"), rows, results)


if __name__ == "__main__":
    main()
