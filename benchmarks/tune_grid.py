"""tune vs. the full grid: speed of the settings found relative to the grid's best, and the number of runs.

The grid measures every combination once; then its best and tune's choice are timed alternately.

    uv run benchmarks/tune_grid.py [--model FILE] [--prompt 512] [--tokens 64] [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from pathlib import Path

from common import median, report

import labkit
from labkit.tuning.search import Point
from labkit.tuning.session import Session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; the bundled model by default")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found = labkit.tune(given.model, n_prompt=given.prompt, n_gen=given.tokens)
    chosen = Point(found.n_threads, found.n_threads_batch, found.n_ubatch, (found.flash_attn, found.type_k, found.type_v), 1)
    with (
        labkit.load_model(given.model, n_ctx=256) as model,
        contextlib.closing(Session(model, given.prompt, given.tokens, lambda _done, _total: None)) as session,
    ):
        session.warm_up(chosen)
        grid = session.grid("latency")
        points = [
            Point(*settings, 1)
            for settings in itertools.product(grid.n_threads, grid.n_threads, grid.n_ubatch, grid.attention)
        ]
        best = min(points, key=session.whole_s)
        times: dict[Point, list[float]] = {chosen: [], best: []}
        for _ in range(given.rounds):
            for point, seconds in times.items():
                seconds.append(session.whole_s(point))
    ratio = median(times[chosen]) / median(times[best])
    goals = {
        "within 3 % of the grid's best": ratio <= 1.03,
        "under a quarter of the grid's runs": found.n_runs < grid.n_points / 4,
    }
    rows = [
        ("found by tune", str(found.for_loading)),
        ("best of the grid", f"{best}"),
        ("tune's time / the grid's best", f"{ratio:.3f}"),
        ("runs / combinations", f"{found.n_runs} / {grid.n_points}"),
        *((f"goal: {goal}", "met" if met else "MISSED") for goal, met in goals.items()),
    ]
    numbers = {"ratio": ratio, "n_runs": found.n_runs, "n_points": grid.n_points, "found": found.for_loading, "goals": goals}
    report("tune_grid", ("measurement", "result"), rows, numbers)


if __name__ == "__main__":
    main()
