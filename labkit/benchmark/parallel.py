"""Time several prompts decoded together, token by token: the loop of `generate_batch`, without early ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from labkit.batch.loop import Batch
from labkit.batch.parallel import cells_of, choose_parallel
from labkit.benchmark.records import BenchmarkRun
from labkit.benchmark.timing import EndlessTokenizer, TimedText
from labkit.engine.generation import GenerationRequest
from labkit.engine.job import Job
from labkit.engine.model import Model
from labkit.engine.sampling_settings import SamplingSettings
from labkit.engine.stepping import Stepper
from labkit.errors import GenerationError


class _TimedBatch(Batch):
    """A batch that records the time of each token."""

    def __init__(
        self, model: Model, requests: Sequence[GenerationRequest], n_parallel: int, n_cells: int, *, pin: int | None
    ) -> None:
        how = {"emit": _drop, "report": _drop, "strict": True, "pin": pin}
        super().__init__(model, requests, n_parallel, n_cells, **how)  # type: ignore[arg-type]  # each has its type
        self._tokenizer = EndlessTokenizer(model.native.tokenizer)
        self.times_s: dict[int, list[float]] = {request.index: [] for request in requests}

    def _step(self, steps: Stepper, slots: Any, batch: Any, job: Job[Any]) -> None:
        active = [sequence for _, sequence in slots.active]
        super()._step(steps, slots, batch, job)
        now_s = time.perf_counter()
        for sequence in active:
            times_s = self.times_s[sequence.request.index]
            times_s += [now_s] * (len(sequence.tokens) - len(times_s))


def _drop(*_: object) -> None:
    return None


def run_together(
    texts: Sequence[TimedText], repeat: int, n_parallel: int, settings: SamplingSettings
) -> tuple[list[BenchmarkRun], float]:
    """Generate all texts, ``n_parallel`` at a time; return one run per text, and the total wall time."""
    model = texts[0].model
    started = time.perf_counter()
    requests = [
        GenerationRequest(text.tokens(), text.max_tokens, settings.for_prompt(index), index=index)
        for index, text in enumerate(texts)
    ]
    batch = model.compute(lambda job: _compute(model, job, requests, n_parallel, pin=texts[0].pin))
    elapsed_s = time.perf_counter() - started
    return [_run(batch, request, repeat, started) for request in requests], elapsed_s


def _compute(
    model: Model, job: Job[Any], requests: Sequence[GenerationRequest], n_parallel: int, *, pin: int | None
) -> _TimedBatch:
    n_cells = cells_of(model, requests)
    choice = choose_parallel(model, job, len(requests), n_cells, n_parallel)
    batch = _TimedBatch(model, requests, choice.n_parallel, n_cells, pin=pin)
    batch.run(job)
    if job.cancelled:
        raise GenerationError("this computation was cancelled")
    return batch


def _run(batch: _TimedBatch, request: GenerationRequest, repeat: int, started: float) -> BenchmarkRun:
    times_s = tuple(now - started for now in batch.times_s[request.index])
    return BenchmarkRun(
        repeat=repeat,
        prompt=request.index,
        n_prompt=len(request.prompt),
        n_generated=len(times_s),
        time_to_first_token_s=times_s[0],
        prefill_s=times_s[0],
        decode_s=times_s[-1] - times_s[0],
        elapsed_s=times_s[-1],
        engine_decode_s=None,
        sampler_s=None,
        text_s=None,
        token_times_s=times_s,
        n_shared=batch.items[request.index].n_shared,
        n_threads=batch.used.summary(),
    )


def together_speeds(runs: Sequence[BenchmarkRun], n_parallel: int) -> tuple[float, float | None]:
    """Return tokens per second of the first prompts, and of the generation after them.

    Until each of the first ``n_parallel`` prompts has its first token, the time counts as prompt processing, although some
    may already generate. After that it counts as generation, although waiting prompts may start. A prefix that prompts share
    is computed once and counted once.
    """
    first = runs[:n_parallel]
    prompts_s = max(run.time_to_first_token_s for run in first)
    ended_s = max(run.token_times_s[-1] for run in runs)
    after = sum(now_s > prompts_s for run in runs for now_s in run.token_times_s)
    prompt = sum(run.n_prompt - run.n_shared for run in first) / prompts_s
    return prompt, after / (ended_s - prompts_s) if after else None
