"""The measurements of `tune` on a loaded model: each setting in a separate context, timed once."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from pathlib import Path
from typing import Any

from labkit.engine import Model
from labkit.engine.job import Job
from labkit.errors import GenerationError, ModelLoadError
from labkit.kv_cache.layers import model_layers
from labkit.kv_cache.size import cache_type, may_cache
from labkit.memory import estimate_memory_usage
from labkit.progress import Progress
from labkit.system import logical_cores_available, performance_cores_available, physical_cores_available
from labkit.tuning.reasons import explain
from labkit.tuning.records import Tried, TunedSettings
from labkit.tuning.search import Grid, Point
from labkit.tuning.timed_context import Trial, TrialContext, open_trial
from labkit.tuning.times import Times

_UBATCHES = (64, 128, 256, 512, 1024, 2048)
_PARALLEL = (1, 2, 4, 8, 16, 32, 64)
_SLOWER = 1.1  # acceptable slowdown for the goal "memory"
_SECONDS = 0.5  # of generation per measurement
_EXPECTED = 9  # measurements on a machine with few cores
_ROUNDS = 3  # of the final comparison with the starting point
_LONG_S = 10.0  # if a round takes longer, two rounds are enough
_F16 = (False, "f16", "f16")


class Session:
    """Measurements on a loaded model, each made once."""

    def __init__(self, model: Model, n_prompt: int, n_gen: int, report: Progress) -> None:
        self.model, self.n_prompt, self.n_gen = model, n_prompt, n_gen
        self._report = report
        self._prompts, self._steps = Times(), Times()
        self._stack = contextlib.ExitStack()
        self._open: tuple[Trial, TrialContext] | None = None
        self._tried: list[tuple[Point, bool]] = []  # with whether tokens were generated

    def grid(self, goal: str) -> Grid:
        """Return the possible settings on this machine."""
        cores = physical_cores_available()
        threads = {1, cores, performance_cores_available(), logical_cores_available()}
        threads |= {2**power for power in range(12) if 2**power < cores}
        most = max(64, 2 ** (self.n_prompt - 1).bit_length())
        q8_0, layers = cache_type("type_k", "q8_0"), model_layers(self.model.facts)
        quantized = ((True, "q8_0", "q8_0"),) if may_cache(layers, q8_0, q8_0, flash_attn=True) else ()
        attention = (_F16, (True, "f16", "f16"), *quantized)
        return Grid(
            n_threads=tuple(sorted(count for count in threads if count > 0)),
            n_ubatch=tuple(size for size in _UBATCHES if size <= most),
            attention=attention,
            n_parallel=_PARALLEL if goal == "throughput" else (1,),
        )

    def start(self, goal: str) -> Point:
        """Return `load_model`'s defaults."""
        chosen = self.model.settings
        size = min(512, max(64, 2 ** (self.n_prompt - 1).bit_length()))
        n_parallel = 16 if goal == "throughput" else 1
        attention = (chosen.flash_attn, "f16", "f16")
        return Point(chosen.n_threads, chosen.n_threads_batch, size, attention, n_parallel)

    def cost(self, prompt_s: float, step_s: float, n_parallel: int) -> float:
        """Return the seconds per text, with ``n_parallel`` texts generated together."""
        return (n_parallel * prompt_s + self.n_gen * step_s) / n_parallel

    def warm_up(self, point: Point) -> None:
        """Compute a prompt without measuring: the first one loads the weights into memory."""
        self.model.compute(lambda job: self._context(point)[1].prompt_s(job, point.n_threads_batch))
        self.model.compute(lambda _: self._free())

    def prompt_s(self, point: Point) -> float:
        """Return the seconds of a prompt, measured once, or again if they contradict another measurement."""
        key, n_threads = _prompt_key(point), point.n_threads_batch
        if self._prompts.known(key, n_threads) is None:
            self._measure(point, steps=False)
        return self._prompts[key, n_threads]

    def step_s(self, point: Point) -> float:
        """Return the seconds of one token of each sequence, as `prompt_s`."""
        key, n_threads = _step_key(point), point.n_threads
        if self._steps.known(key, n_threads) is None:
            self._measure(point, steps=True)
        return self._steps[key, n_threads]

    def _measure(self, point: Point, *, steps: bool) -> None:
        self._note(point, *self._time(point, steps=steps, again=not steps))
        if self._is_odd(point):
            self._note(point, *self._time(point, steps=steps))
        self._tried.append((point, steps))
        self._report(len(self._tried), max(_EXPECTED, len(self._tried) + 1))

    def settle(self) -> bool:
        """Measure again what contradicts a later measurement; return whether something did."""
        odd = {point for point, _ in self._tried if self._is_odd(point)}
        for point in sorted(odd):
            self._note(point, *self._time(point, steps=True))
        return bool(odd)

    def _is_odd(self, point: Point) -> bool:
        prompt, step = _prompt_key(point), _step_key(point)
        return self._prompts.is_odd(prompt, point.n_threads_batch) or self._steps.is_odd(step, point.n_threads)

    def _note(self, point: Point, prompt_s: float | None, step_s: float | None) -> None:
        if prompt_s is not None:
            self._prompts.add(_prompt_key(point), point.n_threads_batch, prompt_s)
        if step_s is not None:
            self._steps.add(_step_key(point), point.n_threads, step_s)

    @property
    def tried(self) -> list[Tried]:
        """What was measured, with the least seconds of each setting: other programs only ever add to them."""
        return [
            Tried(
                **point.settings,
                prompt_s=self._prompts.known(_prompt_key(point), point.n_threads_batch),
                step_s=self._steps.known(_step_key(point), point.n_threads) if steps else None,
            )
            for point, steps in self._tried
        ]

    def _time(self, point: Point, *, steps: bool, again: bool = True) -> tuple[float | None, float | None]:
        """Time a point, its prompt only if needed; a point that does not fit into memory counts as infinite time."""

        def measure(job: Job[Any]) -> tuple[float | None, float | None]:
            opened, context = self._context(point)
            prompt_s = context.prompt_s(job, point.n_threads_batch) if opened or again else None
            return prompt_s, context.step_s(job, point.n_threads, _SECONDS) if steps else None

        try:
            times: tuple[float | None, float | None] = self.model.compute(measure)
        except ModelLoadError:  # the cache does not fit, or the engine refuses these settings
            return math.inf, math.inf
        return times

    def _context(self, point: Point) -> tuple[bool, TrialContext]:
        """Return whether a new context was made, and the context; the last one is kept."""
        flash, type_k, type_v = point.attention
        trial = Trial(flash, type_k, type_v, point.n_ubatch, point.n_parallel)
        if self._open is not None and self._open[0] == trial:
            return False, self._open[1]
        self._free()
        try:
            context = self._stack.enter_context(open_trial(self.model, trial, self.n_prompt, self.n_gen))
        except GenerationError as refused:
            raise ModelLoadError(str(refused)) from refused
        self._open = (trial, context)
        return True, context

    def _free(self) -> None:
        self._open = None
        self._stack.close()

    def close(self) -> None:
        """Free the last context."""
        if not self.model.is_closed:
            self.model.compute(lambda _: self._free())

    def compare(self, start: Point, best: Point) -> float:
        """Measure two points in turn, several times; return the speedup of the second."""
        if start == best:
            return 1.0
        whole = {point: [self.whole_s(point)] for point in (start, best)}
        rounds = 1 if max(whole[start]) > _LONG_S else _ROUNDS - 1
        for _ in range(rounds):
            for point, seconds in whole.items():
                seconds.append(self.whole_s(point))
        return statistics.median(whole[start]) / statistics.median(whole[best])

    def whole_s(self, point: Point) -> float:
        """Measure a point again; return the seconds of a text with its prompt."""
        prompt_s, step_s = self._time(point, steps=True)
        self._note(point, prompt_s, step_s)
        return math.inf if prompt_s is None or step_s is None else self.cost(prompt_s, step_s, point.n_parallel)

    def leanest(self, grid: Grid, fastest: Point) -> Point:
        """Return the point with the least memory among those that are at most 10 % slower than the fastest."""
        limit = _SLOWER * self._known_cost(fastest)
        sizes = [size for size in grid.n_ubatch if size <= fastest.n_ubatch]
        choices = [
            dataclasses.replace(fastest, attention=attention, n_ubatch=size)
            for attention in grid.attention
            for size in sizes
        ]
        for point in sorted(choices, key=self.memory_bytes):
            if self.memory_bytes(point) >= self.memory_bytes(fastest):
                break
            if self._known_cost(point) <= limit:
                return point
        return fastest

    def _known_cost(self, point: Point) -> float:
        step_s = self.step_s(point)  # first, since it also computes the prompt
        return self.cost(self.prompt_s(point), step_s, point.n_parallel)

    def memory_bytes(self, point: Point) -> int:
        """Return the memory a point needs, with a context for its prompt and text."""
        flash, type_k, type_v = point.attention
        return estimate_memory_usage(
            self.model.model_path,
            (self.n_prompt + self.n_gen) * point.n_parallel,
            type_k=type_k,
            type_v=type_v,
            flash_attn=flash,
            n_batch=max(point.n_ubatch, 512),
            n_ubatch=point.n_ubatch,
            n_seq=point.n_parallel,
            method="formula",
        ).total_bytes

    def result(self, goal: str, grid: Grid, start: Point, best: Point, speedup: float, started_s: float) -> TunedSettings:
        """Return the best settings, with reasons."""
        return TunedSettings(
            model=Path(self.model.model_path).name,
            goal=goal,
            n_prompt=self.n_prompt,
            n_gen=self.n_gen,
            **best.settings,
            n_batch=max(best.n_ubatch, 512),
            prompt_tokens_per_second=self.n_prompt / self.prompt_s(best),
            decode_tokens_per_second=best.n_parallel / self.step_s(best),
            memory_bytes=self.memory_bytes(best),
            speedup=speedup,
            n_runs=len(self._tried),
            n_possible=grid.n_points,
            elapsed_s=time.perf_counter() - started_s,
            reasons=explain(self.tried, best, start, self.n_prompt),
            tried=tuple(self.tried),
        )


def _prompt_key(point: Point) -> tuple[Any, ...]:
    return point.n_ubatch, point.attention


def _step_key(point: Point) -> tuple[Any, ...]:
    return point.attention, point.n_parallel
