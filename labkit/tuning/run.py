"""tune: find the fastest settings for a model on this machine, and store them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from labkit.checks import check_choice, check_int
from labkit.engine import load_model
from labkit.models import resolve_model
from labkit.progress import Progress, reporting
from labkit.tuned_settings import GOALS, remember_settings
from labkit.tuning.records import TunedSettings
from labkit.tuning.search import CLEARLY, Search
from labkit.tuning.session import Session


def tune(
    model_path: str | Path | None = None,
    *,
    goal: str = "latency",
    n_prompt: int = 512,
    n_gen: int = 128,
    progress: Progress | bool | None = None,
) -> TunedSettings:
    """Find the best settings for a model on this machine, by measuring.

    The model is loaded once; each setting is tried in a separate context, with a prompt of ``n_prompt`` random tokens and
    some generated ones, so at the intended depth. The result is stored for this file:
    ``load_model(path, settings="latency")`` uses it.

    Parameters
    ----------
    model_path : str, Path or None
        As for `load_model`.
    goal : str
        ``"latency"`` (one text in the least time), ``"throughput"`` (many texts with `generate_batch` in the least time) or
        ``"memory"`` (the least memory for at most 10 % more time).
    n_prompt, n_gen : int
        Lengths of the prompts and texts to optimize for, in tokens.
    progress : callable, bool or None
        Called with the number of settings measured and the expected total; True shows a bar.

    Returns
    -------
    TunedSettings

    Raises
    ------
    ModelNotFoundError, GGUFError, ModelLoadError
        As for `load_model`.
    ArgumentError, ArgumentTypeError
        For a wrong argument.
    GenerationError
        If the engine fails.

    Notes
    -----
    If two settings are within 2 % of each other, `load_model`'s default is kept.
    """
    check_choice("goal", goal, GOALS)
    check_int("n_prompt", n_prompt, 1, 2**20)
    check_int("n_gen", n_gen, 1, 2**20)
    path = resolve_model(model_path)
    started_s = time.perf_counter()
    with (
        load_model(path, n_ctx=256) as model,
        reporting(progress, f"tuning for {goal}", "setting") as report,
        contextlib.closing(Session(model, n_prompt, n_gen, report)) as session,
    ):
        grid, start = session.grid(goal), session.start(goal)
        costs = session.prompt_s, session.step_s, session.cost
        session.warm_up(start)
        best = Search(grid, start, *costs).run()
        if session.settle():
            best = Search(grid, best, *costs).run()
        if goal == "memory":
            best = session.leanest(grid, best)
        speedup = session.compare(start, best)
        if goal != "memory" and speedup < 1 / CLEARLY:
            best, speedup = start, 1.0
        found = session.result(goal, grid, start, best, speedup, started_s)
    remember_settings(path, goal, {**found.for_loading, "n_parallel": found.n_parallel})
    return found
