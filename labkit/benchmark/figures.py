"""Compute the figures of a result from the times of its runs."""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np

from labkit.benchmark.llama_bench import EngineTimes
from labkit.benchmark.memory import MemoryWatch
from labkit.benchmark.parallel import together_speeds
from labkit.benchmark.records import BenchmarkRun, BenchmarkSettings, SpeedGap
from labkit.benchmark.result import BenchmarkResult
from labkit.benchmark.stats import median_interval
from labkit.system import SystemProfile

_NOISY = 0.1  # of the median; an idle machine stays below half of it


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements; ``elapsed_s`` has the wall time of each repeat."""

    runs: tuple[BenchmarkRun, ...]
    elapsed_s: tuple[float, ...]
    engine: tuple[EngineTimes, ...]
    memory: MemoryWatch

    def rounds(self) -> list[list[BenchmarkRun]]:
        """Return the runs of each repeat."""
        return [[run for run in self.runs if run.repeat == repeat] for repeat in range(len(self.elapsed_s))]


def make_result(
    measured: Measured, settings: BenchmarkSettings, system: SystemProfile, notes: tuple[str, ...]
) -> BenchmarkResult:
    """Compute all figures."""
    runs, memory, rounds = measured.runs, measured.memory, measured.rounds()
    samples = tuple(
        sum(run.n_generated for run in found) / seconds for found, seconds in zip(rounds, measured.elapsed_s, strict=True)
    )
    speeds = [_speeds(found, settings.n_parallel) for found in rounds]
    prompt = tuple(speed for speed, _ in speeds)
    decode = tuple(speed for _, speed in speeds if speed is not None)
    firsts = [run.time_to_first_token_s for run in runs]
    latencies = [latency for run in runs for latency in run.inter_token_latencies_s]
    engine_prompt = tuple(times.n_prompt / times.prompt_s for times in measured.engine)
    engine_decode = tuple(times.n_gen / times.decode_s for times in measured.engine)
    elapsed_s = sum(measured.elapsed_s)
    noise = (max(samples) - min(samples)) / statistics.median(samples)
    if noise > _NOISY:
        notes += (f"The repeats differ by {noise:.0%}: other programs used this machine. Close them and measure again.",)
    return BenchmarkResult(
        tokens_per_second=statistics.median(samples),
        confidence_interval=median_interval(samples),
        decode_tokens_per_second=statistics.median(decode) if decode else None,
        prompt_tokens_per_second=statistics.median(prompt),
        time_to_first_token_s=statistics.median(firsts),
        time_to_first_token_p95_s=float(np.percentile(firsts, 95)),
        inter_token_latency_s=statistics.median(latencies) if latencies else None,
        inter_token_latency_p95_s=float(np.percentile(latencies, 95)) if latencies else None,
        total_tokens=sum(run.n_generated for run in runs),
        elapsed_s=elapsed_s,
        memory_bytes=memory.peak_bytes,
        memory_delta_bytes=memory.peak_bytes - memory.before_bytes,
        engine_test=(f"pp{measured.engine[0].n_prompt}", f"tg{measured.engine[0].n_gen}") if measured.engine else (),
        engine_prompt_tokens_per_second=statistics.median(engine_prompt) if engine_prompt else None,
        engine_decode_tokens_per_second=statistics.median(engine_decode) if engine_decode else None,
        engine_prompt_samples=engine_prompt,
        engine_decode_samples=engine_decode,
        gap=_gap(measured),
        noise=noise,
        samples=samples,
        decode_samples=decode,
        prompt_samples=prompt,
        runs=runs,
        settings=settings,
        system=system,
        notes=notes,
    )


def _speeds(runs: list[BenchmarkRun], n_parallel: int) -> tuple[float, float | None]:
    """Return tokens per second of prompts and of generation, in one round."""
    if n_parallel > 1:
        return together_speeds(runs, n_parallel)
    n_decoded = sum(run.n_generated - 1 for run in runs)
    prompt = sum(run.n_prompt for run in runs) / sum(run.prefill_s for run in runs)
    return prompt, n_decoded / sum(run.decode_s for run in runs) if n_decoded else None


def _gap(measured: Measured) -> SpeedGap | None:
    """Split the time per token into its parts; None with a single token, or without the engine's times."""
    if not measured.engine or any(not run.engine_decode_s for run in measured.runs):
        return None
    parts = sorted(map(_parts, measured.rounds()))
    user, computing, sampler, text = parts[(len(parts) - 1) // 2]  # from one round, so that they add up
    engine = statistics.median(times.decode_s / times.n_gen for times in measured.engine)
    return SpeedGap(
        user_s_per_token=user,
        engine_s_per_token=engine,
        depth_s_per_token=computing - engine,
        sampler_s_per_token=sampler,
        text_s_per_token=text,
        python_s_per_token=user - computing - sampler - text,
    )


def _parts(runs: list[BenchmarkRun]) -> tuple[float, ...]:
    """Return seconds per token of one round: total, computing, sampler, text."""
    n_decoded = sum(run.n_generated - 1 for run in runs)
    return tuple(
        sum(run[name] for run in runs) / n_decoded for name in ("decode_s", "engine_decode_s", "sampler_s", "text_s")
    )
