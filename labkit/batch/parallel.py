"""Choose how many sequences to decode together: the number that fits into memory and is fastest on this machine."""

from __future__ import annotations

import bisect
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.cache import file_identity, recall, remember
from labkit.checks import check_int
from labkit.engine.generation import GenerationRequest
from labkit.engine.job import Job
from labkit.engine.native import C
from labkit.engine.stepping import decode
from labkit.errors import GenerationError
from labkit.kv_cache import CELLS
from labkit.memory import estimate_memory_usage
from labkit.second_context import fill, second_context, token_batch
from labkit.system import available_ram_bytes, load_engine
from labkit.units import format_bytes, round_up

if TYPE_CHECKING:
    from labkit.engine.model import Model

MAX_PARALLEL = 256  # LLAMA_MAX_SEQ
_SHARE_OF_FREE = 0.9  # fraction of the free RAM that may be used
_ALWAYS = 16  # up to this number, all go together without timing: two steps are never faster
_SIZES = (1, 8, 16, 24, 32, 48, 64)  # steps that are timed; at 64, computing dominates reading the weights
_TIMING_S = 10.0
_NEARLY = 1.03  # fewer sequences are preferred if they take at most this much longer


@dataclasses.dataclass(frozen=True)
class Choice:
    """A number of sequences, and why."""

    n_parallel: int
    reason: str


def check_parallel(value: Any) -> int | None:
    """Check ``n_parallel``; None lets labkit choose."""
    hint = "; None chooses"
    return None if value is None else check_int("n_parallel", value, 1, MAX_PARALLEL, hint=hint)


def cells_of(model: Model, requests: Sequence[GenerationRequest]) -> int:
    """Return the maximum number of tokens of a sequence: the longest prompt with its text, rounded up to 256.

    If a model has two sets of rotary factors ("longrope"), llama.cpp chooses one by the context size; a sequence then gets
    enough cells for the set that `generate_text` uses.
    """
    cells = round_up(max(len(request.prompt) + request.max_tokens for request in requests), CELLS)
    original = model.facts.hparam("rope.scaling.original_context_length", 0)
    if model.facts.hparam("rope.scaling.type", "longrope") == "longrope" and 0 < original < model.n_ctx():
        cells = max(cells, round_up(int(original) + 1, CELLS))
    return min(cells, model.n_ctx())


def choose_parallel(model: Model, job: Job[Any], n_prompts: int, n_cells: int, requested: int | None) -> Choice:
    """Choose how many sequences are decoded together, in the model's thread; refuse a number that does not fit."""
    wanted = min(requested or n_prompts, n_prompts, MAX_PARALLEL)
    fitting = _fitting(model, wanted, n_cells)
    if requested is not None:
        if fitting < wanted:
            raise GenerationError(
                f"n_parallel={requested} needs {format_bytes(_needed(model, wanted, n_cells))} for the sequences' caches "
                f"and buffers, but this process may use {format_bytes(available_ram_bytes())} of RAM now: choose "
                f"n_parallel={fitting} or less, or fewer max_tokens"
            )
        return Choice(wanted, "as requested" if wanted == requested else "fewer prompts than requested")
    limit = f"{fitting} fit into the free RAM" if fitting < wanted else "all prompts together"
    if fitting <= _ALWAYS:
        return Choice(fitting, limit)
    best = fastest(_step_times(model, job, fitting), n_prompts, fitting)
    return Choice(best, limit if best == fitting else f"{best} at a time are fastest for {n_prompts} prompts (measured)")


def fastest(step_s: Mapping[int, float], n_prompts: int, n_most: int) -> int:
    """Return the number of sequences together that finishes all prompts first; the smallest of nearly equal ones.

    For texts of equal length, ``n`` together take ``floor(n_prompts / n) * t(n) + t(n_prompts mod n)`` per token; ``step_s``
    has the measured seconds per step, which are interpolated.

    Examples
    --------
    A kernel that computes 16 columns at a time, and 32 prompts or 18:

    >>> times = {1: 1.0, 8: 1.9, 16: 2.0, 24: 3.9, 32: 4.0}
    >>> fastest(times, 32, 32), fastest(times, 18, 18)
    (16, 18)
    """
    sizes = sorted(step_s)

    def t(n: int) -> float:
        return float(np.interp(n, [0, *sizes], [0.0, *(step_s[size] for size in sizes)]))

    most = min(n_most, sizes[-1])
    choices = sorted({size for size in sizes if size <= most} | {most})
    costs = {n: n_prompts // n * t(n) + t(n_prompts % n) for n in choices}
    return next(n for n in choices if costs[n] <= _NEARLY * min(costs.values()))


def _step_times(model: Model, job: Job[Any], n_most: int) -> dict[int, float]:
    """Return the seconds of a step by its number of tokens, timed once per file, engine and number of threads."""
    from labkit import __version__

    settings = model.settings
    n_threads = model.threads_to_keep() or settings.n_threads_batch
    words = (
        *file_identity(Path(model.model_path)),
        __version__,
        str(load_engine().__version__),
        f"{n_threads} {settings.n_gpu_layers} {settings.use_mmap} {settings.devices}",
    )
    sizes = [size for size, before in zip(_SIZES, (0, *_SIZES), strict=False) if before < n_most]
    known = _known(recall("steps", *words))
    if not set(sizes) <= set(known):
        known = _time_steps(model, job, sizes, n_threads)
        if set(sizes) == set(known):
            remember("steps", {str(size): seconds for size, seconds in known.items()}, *words)
    return known


def _known(note: Any) -> dict[int, float]:
    try:
        return {int(size): float(seconds) for size, seconds in note.items() if float(seconds) > 0}
    except (AttributeError, TypeError, ValueError):
        return {}  # missing, or in another format


def _time_steps(model: Model, job: Job[Any], sizes: Sequence[int], n_threads: int) -> dict[int, float]:
    """Time steps with the tokens of one sequence: the matrix products, nearly all of the work, are the same."""
    n_vocab, times = model.native.n_vocab, {}
    most, first_s = max(sizes), time.perf_counter()
    with second_context(model, n_ctx=CELLS, n_batch=most, n_rows=most) as ctx, token_batch(most) as batch:
        C.llama_set_n_threads(ctx, n_threads, n_threads)
        fill(batch, np.arange(most) * 7 % n_vocab, 0, most)
        for size in sizes:
            batch.n_tokens = size
            tried: list[float] = []
            while len(tried) < 3 and sum(tried) < 1.0:
                C.llama_memory_clear(C.llama_get_memory(ctx), True)
                started_s = time.perf_counter()
                decode(ctx, batch, job)
                tried.append(time.perf_counter() - started_s)
            times[size] = min(tried)
            if time.perf_counter() - first_s > _TIMING_S:
                break
    return times


def _fitting(model: Model, wanted: int, n_cells: int) -> int:
    """Return how many of the wanted sequences fit into the free RAM; at least one."""
    if model.settings.n_gpu_layers != 0:  # the engine reports when a device is full
        return wanted
    room = _SHARE_OF_FREE * available_ram_bytes()
    return max(1, bisect.bisect_right(range(1, wanted + 1), room, key=lambda n_seq: _needed(model, n_seq, n_cells)))


def _needed(model: Model, n_seq: int, n_cells: int) -> int:
    settings = model.settings
    estimate = estimate_memory_usage(
        model.model_path,
        n_cells * n_seq,
        n_seq=n_seq,
        type_k=settings.type_k,
        type_v=settings.type_v,
        n_batch=max(settings.n_batch, n_seq),
        n_ubatch=settings.n_ubatch,
        use_mmap=settings.use_mmap,
        flash_attn=settings.flash_attn,
        swa_full=settings.swa_full,
        method="formula",
    )
    buffers = estimate.compute_buffer_bytes + estimate.output_buffer_bytes
    return estimate.kv_cache_bytes + estimate.recurrent_state_bytes + buffers
