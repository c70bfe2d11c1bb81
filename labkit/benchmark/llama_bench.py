"""llama.cpp alone, timed by llama-bench's protocol: random tokens, nothing sampled, an empty cache before each test."""

from __future__ import annotations

import ctypes
import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.engine.native import C

if TYPE_CHECKING:
    from labkit.engine.job import Job
    from labkit.engine.model import Model
    from labkit.engine.stepping import Stepper


@dataclasses.dataclass(frozen=True)
class EngineTimes:
    """One run of llama-bench's protocol: seconds by the clock, and by llama.cpp's counters.

    The counters are 0 for a model that was loaded with ``no_perf=True``.
    """

    n_prompt: int
    n_gen: int
    prompt_s: float
    decode_s: float
    counted_prompt_s: float
    counted_decode_s: float


def time_engine(model: Model, n_prompt: int, n_gen: int, *, pin: int | None = None) -> EngineTimes:
    """Time llama.cpp only, by llama-bench's protocol: random tokens, no sampling, an empty cache before each test.

    The tokens are the same in every run (llama-bench draws new ones). The model's own context and settings are used.

    References
    ----------
    llama.cpp tools/llama-bench/llama-bench.cpp (test_prompt, test_gen).
    """
    vocab = model.native.vocab

    def tokens(count: int) -> Any:
        found = np.random.default_rng(0).integers(0, C.llama_vocab_n_tokens(vocab), count, np.int32)
        if C.llama_vocab_get_add_bos(vocab):
            found[0] = C.llama_vocab_bos(vocab)
        return (C.llama_token * count)(*map(int, found))

    def run(job: Job[EngineTimes]) -> EngineTimes:
        try:
            with model.steps(job, pin=pin) as steps:
                model.clear_memory()
                prompt_s, counted_prompt_s = _time(steps, tokens(n_prompt), model.n_batch)
                model.clear_memory()
                decode_s, counted_decode_s = _time(steps, tokens(n_gen), 1)
        finally:
            model.clear_memory()
        return EngineTimes(n_prompt, n_gen, prompt_s, decode_s, counted_prompt_s, counted_decode_s)

    return model.compute(run)


def _time(steps: Stepper, tokens: Any, step: int) -> tuple[float, float]:
    """Decode tokens, ``step`` at a time; return the seconds by the clock and by llama.cpp's counters."""
    ctx, size = steps.ctx, ctypes.sizeof(C.llama_token)
    C.llama_synchronize(ctx)
    counted_ms = _counted_ms(ctx)
    started = time.perf_counter()
    for start in range(0, len(tokens), step):
        count = min(step, len(tokens) - start)
        address = ctypes.cast(ctypes.byref(tokens, start * size), ctypes.POINTER(C.llama_token))
        steps.decode(C.llama_batch_get_one(address, count), count)
        C.llama_synchronize(ctx)
    return time.perf_counter() - started, (_counted_ms(ctx) - counted_ms) / 1e3


def _counted_ms(ctx: Any) -> float:
    counters = C.llama_perf_context(ctx)  # a single token counts as decoding, even a prompt's last one
    return float(counters.t_p_eval_ms + counters.t_eval_ms)
