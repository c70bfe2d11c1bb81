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

    def run(job: Job[EngineTimes]) -> EngineTimes:
        with model.steps(job, pin=pin) as steps:
            return _EngineRun(model, steps).times(n_prompt, n_gen)

    return model.compute(run)


class _EngineRun:
    """The two tests, in the model's thread."""

    def __init__(self, model: Model, steps: Stepper) -> None:
        self.model, self.steps, self.ctx = model, steps, steps.ctx
        self.vocab = model.native.vocab
        self.n_batch = model.n_batch

    def times(self, n_prompt: int, n_gen: int) -> EngineTimes:
        try:
            self.model.clear_memory()
            prompt_s, counted_prompt_s = self._time(self._random(n_prompt), self.n_batch)
            self.model.clear_memory()
            decode_s, counted_decode_s = self._time(self._random(n_gen), 1)
        finally:
            self.model.clear_memory()
        return EngineTimes(n_prompt, n_gen, prompt_s, decode_s, counted_prompt_s, counted_decode_s)

    def _random(self, n_tokens: int) -> Any:
        tokens = np.random.default_rng(0).integers(0, C.llama_vocab_n_tokens(self.vocab), n_tokens, np.int32)
        if C.llama_vocab_get_add_bos(self.vocab):
            tokens[0] = C.llama_vocab_bos(self.vocab)
        return (C.llama_token * n_tokens)(*map(int, tokens))

    def _time(self, tokens: Any, step: int) -> tuple[float, float]:
        """Decode tokens, ``step`` at a time; return the seconds by the clock and by llama.cpp's counters."""
        size = ctypes.sizeof(C.llama_token)
        C.llama_synchronize(self.ctx)
        counted_ms = self._counted_ms()
        started = time.perf_counter()
        for start in range(0, len(tokens), step):
            count = min(step, len(tokens) - start)
            address = ctypes.cast(ctypes.byref(tokens, start * size), ctypes.POINTER(C.llama_token))
            self.steps.decode(C.llama_batch_get_one(address, count), count)
            C.llama_synchronize(self.ctx)
        return time.perf_counter() - started, (self._counted_ms() - counted_ms) / 1e3

    def _counted_ms(self) -> float:
        counters = C.llama_perf_context(self.ctx)  # a single token counts as decoding, even a prompt's last one
        return float(counters.t_p_eval_ms + counters.t_eval_ms)
