"""Try settings on a loaded model: a separate context for each, timed at the intended depth."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.engine.job import Job
from labkit.engine.native import C
from labkit.engine.stepping import decode
from labkit.kv_cache import CELLS
from labkit.kv_cache.size import cache_type
from labkit.second_context import fill, second_context, token_batch, view
from labkit.units import round_up

if TYPE_CHECKING:
    from labkit.engine.model import Model

_LEAST = 4  # minimum number of timed tokens; the first one is warm-up


@dataclasses.dataclass(frozen=True)
class Trial:
    """Settings of a context to try."""

    flash_attn: bool
    type_k: str
    type_v: str
    n_ubatch: int
    n_parallel: int = 1

    @classmethod
    def of(cls, model: Model) -> Trial:
        """Return the settings that a model was loaded with."""
        chosen = model.settings
        return cls(chosen.flash_attn, chosen.type_k, chosen.type_v, min(512, chosen.n_ubatch))


class TrialContext:
    """A context with a trial's settings, for prompts and texts of fixed length; call its methods in the model's thread."""

    def __init__(self, model: Model, ctx: Any, trial: Trial, n_prompt: int, n_gen: int) -> None:
        self._model, self._ctx, self._trial = model, ctx, trial
        self._n_prompt, self._n_gen = n_prompt, n_gen
        self._memory = C.llama_get_memory(ctx)
        self._holds_prompt = False

    def prompt_s(self, job: Job[Any], n_threads: int) -> float:
        """Compute the prompt on an empty cache; return the seconds."""
        C.llama_set_n_threads(self._ctx, n_threads, n_threads)
        C.llama_memory_clear(self._memory, True)
        step, tokens = self._trial.n_ubatch, self._tokens(self._n_prompt)
        started_s = time.perf_counter()
        with token_batch(step) as batch:
            for start in range(0, self._n_prompt, step):
                fill(batch, tokens[start : start + step], start, 1)
                decode(self._ctx, batch, job)
        C.llama_synchronize(self._ctx)
        elapsed_s = time.perf_counter() - started_s
        for sequence in range(1, self._trial.n_parallel):
            C.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        self._holds_prompt = True
        return elapsed_s

    def step_s(self, job: Job[Any], n_threads: int, seconds: float) -> float:
        """Generate tokens of each sequence after the prompt for ``seconds``; return the median time, and remove them."""
        if not self._holds_prompt:
            self.prompt_s(job, n_threads)
        C.llama_set_n_threads(self._ctx, n_threads, n_threads)
        n_parallel, times = self._trial.n_parallel, []
        with token_batch(n_parallel) as batch:
            batch.n_tokens = n_parallel
            view(batch.logits, n_parallel)[:] = 1
            for sequence in range(n_parallel):
                batch.seq_id[sequence][0] = sequence
            for index, token in enumerate(self._tokens(self._n_gen)):
                view(batch.token, n_parallel)[:] = token
                view(batch.pos, n_parallel)[:] = self._n_prompt + index
                started_s = time.perf_counter()
                decode(self._ctx, batch, job)
                C.llama_synchronize(self._ctx)
                times.append(time.perf_counter() - started_s)
                if len(times) >= _LEAST and sum(times) > seconds:
                    break
        cut = [C.llama_memory_seq_rm(self._memory, sequence, self._n_prompt, -1) for sequence in range(n_parallel)]
        self._holds_prompt = all(cut)  # a recurrent state cannot be truncated
        return statistics.median(times[1:] or times)

    def _tokens(self, count: int) -> Any:
        return np.random.default_rng(0).integers(0, self._model.native.n_vocab, count, np.int32)


@contextlib.contextmanager
def open_trial(model: Model, trial: Trial, n_prompt: int, n_gen: int) -> Iterator[TrialContext]:
    """Open a context with a trial's settings on a model's weights; in the model's thread."""
    cells = round_up(n_prompt + n_gen, CELLS)
    changes = {
        "flash_attn_type": int(trial.flash_attn),
        "type_k": cache_type("type_k", trial.type_k).id,
        "type_v": cache_type("type_v", trial.type_v).id,
        "n_ubatch": max(trial.n_ubatch, trial.n_parallel),
    }
    with second_context(
        model,
        n_ctx=cells * trial.n_parallel,
        n_batch=max(trial.n_ubatch, trial.n_parallel),
        n_rows=trial.n_parallel,
        n_seq=trial.n_parallel,
        changes=changes,
    ) as ctx:
        yield TrialContext(model, ctx, trial, n_prompt, n_gen)


def time_tokens(model: Model, n_threads: int, n_prompt: int, n_gen: int) -> tuple[float, float]:
    """Return tokens per second of a prompt and of the tokens after it, with the model's own settings."""

    def measure(job: Job[tuple[float, float]]) -> tuple[float, float]:
        with open_trial(model, Trial.of(model), n_prompt, n_gen) as context:
            return n_prompt / context.prompt_s(job, n_threads), 1 / context.step_s(job, n_threads, math.inf)

    return model.compute(measure)
