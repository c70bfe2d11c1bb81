"""Explain why a setting was chosen, with the measured speeds."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.tuning.records import Tried
from labkit.tuning.search import Point


def explain(tried: Sequence[Tried], best: Point, start: Point, n_prompt: int) -> dict[str, str]:
    """Return setting -> a sentence with the measured speeds, in tokens per second."""
    flash, type_k, type_v = best.attention
    attention = {
        _attention(item): _rate(item.n_parallel, item.step_s)
        for item in tried
        if item.step_s and (item.n_threads, item.n_parallel) == (best.n_threads, best.n_parallel)
    }
    threads = {
        f"{item.n_threads}": _rate(item.n_parallel, item.step_s)
        for item in tried
        if item.step_s and item.n_parallel == best.n_parallel
    }
    for_prompts = {f"{item.n_threads_batch}": _rate(n_prompt, item.prompt_s) for item in tried if item.prompt_s}
    sizes = {
        f"{item.n_ubatch}": _rate(n_prompt, item.prompt_s)
        for item in reversed(tried)
        if item.prompt_s and item.n_threads_batch == best.n_threads_batch
    }
    together = {f"{item.n_parallel}": _rate(item.n_parallel, item.step_s) for item in tried if item.step_s}
    name = f"flash attention {'on' if flash else 'off'}, {type_k} and {type_v} cache"
    found = {
        "n_threads": _sentence(f"{best.n_threads} for generation", threads, "tokens/s"),
        "n_threads_batch": _sentence(f"{best.n_threads_batch} for prompts", for_prompts, "tokens/s"),
        "flash_attn": _sentence(name, attention, "tokens/s"),
        "n_ubatch": _sentence(f"{best.n_ubatch} prompt tokens at once", sizes, "tokens/s"),
    }
    if len(together) > 1:
        found["n_parallel"] = _sentence(f"{best.n_parallel} texts together", together, "tokens/s")
    if best == start:
        found["all"] = "load_model's default: nothing that was tried is clearly faster"
    return found


def _attention(item: Tried) -> str:
    return f"{'on' if item.flash_attn else 'off'} with {item.type_k}"


def _rate(count: int, seconds: float | None) -> float:
    return count / seconds if seconds else 0.0


def _sentence(choice: str, measured: dict[str, float], unit: str) -> str:
    return f"{choice} ({', '.join(f'{name}: {rate:,.3g}' for name, rate in measured.items())} {unit})"
