"""What a benchmark gives: runs, the two figures, the gap between them, and exports."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.benchmark import export
from labkit.benchmark.compare import BenchmarkComparison, compare_benchmarks
from labkit.benchmark.stats import ConfidenceInterval
from labkit.records import Record
from labkit.system import SystemProfile
from labkit.targets import written

__all__ = ["BenchmarkResult", "BenchmarkRun", "BenchmarkSettings", "SpeedGap"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BenchmarkRun(Record):
    """One prompt in one repeat.

    Attributes
    ----------
    repeat, prompt : int
        Which, counted from 0.
    n_prompt, n_generated : int
        Tokens.
    time_to_first_token_s : float
        From the call to the first token: tokenizing, processing the prompt on an empty cache, sampling.
    prefill_s : float
        Processing the prompt alone, until its logits were there.
    decode_s : float
        From the first token to the last.
    elapsed_s : float
        From the call to the return of the whole text.
    engine_decode_s, sampler_s, text_s : float or None
        Parts of ``decode_s``: what llama.cpp counts for computing, choosing tokens, and turning them into text. None where
        several prompts ran together.
    token_times_s : tuple of float
        From the call until each token.
    n_shared : int
        Tokens of the prompt that another prompt of the same batch had computed.
    """

    repeat: int
    prompt: int
    n_prompt: int
    n_generated: int
    time_to_first_token_s: float
    prefill_s: float
    decode_s: float
    elapsed_s: float
    engine_decode_s: float | None
    sampler_s: float | None
    text_s: float | None
    token_times_s: tuple[float, ...] = dataclasses.field(repr=False)
    n_shared: int = 0

    @property
    def inter_token_latencies_s(self) -> tuple[float, ...]:
        """Seconds between each two tokens."""
        return tuple(b - a for a, b in zip(self.token_times_s, self.token_times_s[1:], strict=False))


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BenchmarkSettings(Record):
    """All that two results must have in common to be compared.

    Attributes
    ----------
    model : str
        The file's name.
    model_type : str
        llama.cpp's own description, ``"llama 256M Q4_1"`` for example.
    model_size_bytes, model_n_params : int
        Of the weights.
    backends : str
        What llama.cpp was built with.
    n_threads, n_threads_batch, n_gpu_layers, n_ctx, n_batch, n_ubatch, use_mmap, flash_attn, type_k, type_v
        As in `ModelSettings`; cache types by llama.cpp's number.
    devices : tuple of str
    n_prompts : int
    n_prompt : tuple of int
        Tokens of each prompt.
    prompts_sha256 : str
        Of the prompts' text, so that results of different texts are told apart.
    max_tokens, warmup, repeats, n_parallel : int
    temperature, top_p, min_p, repeat_penalty : float
    top_k, seed : int
    constrained : bool
        Whether a grammar or schema was followed.
    """

    model: str
    model_type: str
    model_size_bytes: int
    model_n_params: int
    backends: str
    n_threads: int
    n_threads_batch: int
    n_gpu_layers: int
    n_ctx: int
    n_batch: int
    n_ubatch: int
    use_mmap: bool
    flash_attn: bool
    type_k: int
    type_v: int
    devices: tuple[str, ...]
    n_prompts: int
    n_prompt: tuple[int, ...]
    prompts_sha256: str
    max_tokens: int
    warmup: int
    repeats: int
    n_parallel: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    seed: int
    constrained: bool


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SpeedGap(Record):
    """Where the time between two tokens goes: the user's is the sum of the rest.

    Attributes
    ----------
    user_s_per_token : float
        Of the repeat in the middle, from which all parts but the engine's are taken.
    engine_s_per_token : float
        By llama-bench's protocol, random tokens from an empty cache on: the median of the repeats.
    depth_s_per_token : float
        What llama.cpp itself counts more for a token of the text than for one of that protocol: the text stands behind its
        prompt, and attention reads all of it. It holds the noise between the two runs too, and may be negative.
    sampler_s_per_token, text_s_per_token : float
        Choosing a token, and turning it into text.
    python_s_per_token : float
        The rest: the loop, the calls into C, chunks of text.
    """

    user_s_per_token: float
    engine_s_per_token: float
    depth_s_per_token: float
    sampler_s_per_token: float
    text_s_per_token: float
    python_s_per_token: float


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BenchmarkResult(Record):
    """What `benchmark_inference` measured.

    Attributes
    ----------
    tokens_per_second : float
        Generated tokens of all prompts over the wall time of a repeat, prompt processing included; median of the repeats.
    confidence_interval : ConfidenceInterval
        Of that median, from the order of the repeats.
    decode_tokens_per_second : float or None
        Generation alone, as the user sees it: tokens after the first over their time; median of the repeats. None when
        ``max_tokens`` is 1.
    prompt_tokens_per_second : float
        Prompt tokens over the time until their logits are there; median of the repeats.
    time_to_first_token_s, time_to_first_token_p95_s : float
        Median and 95th percentile of all runs.
    inter_token_latency_s, inter_token_latency_p95_s : float or None
        Median and 95th percentile of all pauses between two tokens.
    total_tokens : int
        Generated in all repeats.
    elapsed_s : float
        Wall time of all repeats, without warm-up and engine tests.
    memory_bytes, memory_delta_bytes : int
        The most RAM held during the repeats, and how much more than before them.
    memory_method : str
        How that was found.
    memory_sampling_share : float
        CPU time of the sampling thread over ``elapsed_s``.
    engine_test : tuple of str
        The engine's two tests as llama-bench names them, ``("pp512", "tg128")`` for example; empty without them.
    engine_prompt_tokens_per_second, engine_decode_tokens_per_second : float or None
        llama.cpp alone, by llama-bench's protocol (random tokens, empty cache, nothing sampled); median of the repeats.
    engine_prompt_samples, engine_decode_samples : tuple of float
        Tokens per second of each repeat.
    gap : SpeedGap or None
        From the engine's figure to the user's, in seconds a token.
    sampler_s_per_token, text_s_per_token, python_s_per_token : float or None
        Its parts; None where several prompts ran together or ``max_tokens`` is 1.
    noise : float
        How far the repeats lie apart: the fastest's ``tokens_per_second`` less the slowest's, over the median.
    samples : tuple of float
        Tokens per second of each repeat, whose median is ``tokens_per_second``.
    decode_samples, prompt_samples : tuple of float
        The same of generation alone, and of prompt processing.
    runs : tuple of BenchmarkRun
        One a prompt and repeat.
    settings : BenchmarkSettings
    system : SystemProfile
    notes : tuple of str
        What to keep in mind when reading the figures.
    """

    tokens_per_second: float
    confidence_interval: ConfidenceInterval
    decode_tokens_per_second: float | None
    prompt_tokens_per_second: float
    time_to_first_token_s: float
    time_to_first_token_p95_s: float
    inter_token_latency_s: float | None
    inter_token_latency_p95_s: float | None
    total_tokens: int
    elapsed_s: float
    memory_bytes: int
    memory_delta_bytes: int
    memory_method: str
    memory_sampling_share: float
    engine_test: tuple[str, ...]
    engine_prompt_tokens_per_second: float | None
    engine_decode_tokens_per_second: float | None
    engine_prompt_samples: tuple[float, ...]
    engine_decode_samples: tuple[float, ...]
    gap: SpeedGap | None
    sampler_s_per_token: float | None
    text_s_per_token: float | None
    python_s_per_token: float | None
    noise: float
    samples: tuple[float, ...]
    decode_samples: tuple[float, ...]
    prompt_samples: tuple[float, ...]
    runs: tuple[BenchmarkRun, ...]
    settings: BenchmarkSettings
    system: SystemProfile
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return export.text(self)

    def _repr_html_(self) -> str:
        return export.html(self)

    def compare(self, other: Mapping[str, Any]) -> BenchmarkComparison:
        """Say whether this result is faster than another, slower or within noise: `compare_benchmarks`."""
        return compare_benchmarks(self, other)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything as JSON, and write it to a file if one is named; ``json.loads`` gives what `compare` takes."""
        return written(json.dumps(self.to_dict(), indent=2, ensure_ascii=False), path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return a row a run, unrounded, as CSV, and write it to a file if one is named."""
        return written(export.runs_csv(self), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Return llama-bench's table and the user's figures as Markdown, and write it to a file if one is named."""
        return written(export.markdown(self), path)

    def plot(self, *, axes: Any = None) -> Any:
        """Draw the pauses between tokens into matplotlib Axes and return them: `labkit.plots.plot_benchmark`."""
        from labkit.plots import plot_benchmark

        return plot_benchmark(self, axes=axes)
