"""benchmark_inference: warm-up, repeats, and the resulting figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from labkit.batch.parallel import MAX_PARALLEL
from labkit.benchmark.figures import Measured, make_result
from labkit.benchmark.llama_bench import EngineTimes, time_engine
from labkit.benchmark.memory import MemoryWatch
from labkit.benchmark.parallel import run_together
from labkit.benchmark.records import BenchmarkRun, BenchmarkSettings
from labkit.benchmark.result import BenchmarkResult
from labkit.benchmark.timing import TimedText, describe
from labkit.cache import sha256
from labkit.checks import check_flag, check_int, check_items
from labkit.engine import Model
from labkit.engine.model import check_model
from labkit.engine.sampling_settings import SamplingSettings, check_sampling
from labkit.errors import ArgumentError
from labkit.progress import Progress, reporting
from labkit.system import measure_system
from labkit.units import counted

_MODEL_SETTINGS = (
    "n_threads", "n_threads_batch", "n_gpu_layers", "n_ctx", "n_batch", "n_ubatch", "use_mmap", "flash_attn",
    "type_k", "type_v", "devices",
)  # fmt: skip
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")

MAX_REPEATS = 100_000


def benchmark_inference(
    model: Model,
    prompts: str | Sequence[str],
    *,
    max_tokens: int = 64,
    warmup: int = 1,
    repeats: int = 3,
    n_parallel: int = 1,
    temperature: float = 0.0,
    engine: bool = True,
    adapt_threads: bool = False,
    progress: Progress | bool | None = None,
    **kwargs: Any,
) -> BenchmarkResult:
    """Measure how fast a model answers: the speed that a user sees, and the speed of llama.cpp alone.

    Parameters
    ----------
    model : Model
        From `load_model`. Its cache is empty afterwards.
    prompts : str or sequence of str
        Each is continued in each repeat, starting with an empty cache.
    max_tokens : int
        Tokens to generate. All are generated: end-of-sequence is treated as an ordinary token, and stop sequences are
        ignored.
    warmup : int
        Rounds that are not measured.
    repeats : int
        Measured rounds. At least three are needed to estimate noise; from six on the median's interval has 95 % confidence.
    n_parallel : int
        Prompts decoded together, as by `generate_batch`; the engine's tests always use one sequence.
    temperature : float
        0 always chooses the likeliest token.
    engine : bool
        Also time llama.cpp only, by llama-bench's protocol, in the same rounds: as many random tokens as the longest prompt
        has, then ``max_tokens`` one by one. False leaves those figures None, and needs half the time for one prompt.
    adapt_threads : bool
        For a model that was loaded without ``n_threads``. False keeps one number of threads: as many as other programs leave
        cores for when the benchmark begins. True lets the number follow the machine, as `generate_text` does.
    progress : callable, bool or None
        Called with (steps done, total steps); True shows a bar.
    **kwargs
        As for `generate_text`; the default seed is 0.

    Returns
    -------
    BenchmarkResult

    Raises
    ------
    ContextOverflowError
        If a prompt and ``max_tokens`` do not fit the context; nothing is computed.
    ArgumentError, ArgumentTypeError
        For a wrong argument.
    ModelClosedError
        After ``model.close()``.
    GenerationError
        If it is cancelled, or the engine fails.

    Notes
    -----
    The time to first token starts with the call and includes tokenizing. A token's time is when the loop of `generate_text`
    has it, in the model's thread.

    References
    ----------
    llama.cpp tools/llama-bench.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model:
    ...     result = labkit.benchmark_inference(model, "Once upon a time", max_tokens=8, repeats=2)
    >>> result.total_tokens, len(result.runs), result.time_to_first_token_s < result.elapsed_s
    (16, 2, True)
    """
    check_model(model)
    plan = _Plan(
        max_tokens=check_int("max_tokens", max_tokens, 1, 2**31 - 1),
        warmup=check_int("warmup", warmup, 0, 1000),
        repeats=check_int("repeats", repeats, 1, MAX_REPEATS),
        n_parallel=check_int("n_parallel", n_parallel, 1, MAX_PARALLEL),
        engine=check_flag("engine", engine),
        pin=None if check_flag("adapt_threads", adapt_threads) else model.threads_to_keep(),
    )
    options = {**kwargs, "seed": 0 if kwargs.get("seed") is None else kwargs["seed"]}
    texts = _texts(prompts)
    parse_special = check_flag("parse_special", options.pop("parse_special", False))
    sampling = check_sampling(temperature, options)._replace(stop=())
    timed = tuple(
        TimedText(model, text, plan.max_tokens, sampling, parse_special=parse_special, pin=plan.pin) for text in texts
    )
    with reporting(progress, "benchmark", "step") as report:
        measured = _Session(model, timed, sampling, plan, report).measure()
    settings = _settings(model, sampling, plan, texts, timed)
    return make_result(measured, settings, measure_system(bandwidth=False), _notes(model, plan, kwargs))


def _texts(prompts: Any) -> list[str]:
    if isinstance(prompts, str):
        return [prompts]
    texts = check_items("prompts", prompts, "texts, or one text")
    if not texts:
        raise ArgumentError("prompts is empty: give at least one text")
    return list(texts)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The checked arguments."""

    max_tokens: int
    warmup: int
    repeats: int
    n_parallel: int
    engine: bool
    pin: int | None


class _Session:
    """The rounds: engine and user tests alternate, so that a slow phase of the machine affects both."""

    def __init__(
        self, model: Model, texts: tuple[TimedText, ...], sampling: SamplingSettings, plan: _Plan, report: Progress
    ) -> None:
        self.model, self.texts, self.sampling, self.plan = model, texts, sampling, plan
        self._n_prompt = max(text.n_prompt for text in texts)
        self._report, self._done = report, 0
        steps = 1 if plan.n_parallel > 1 else len(texts)
        self._total = (plan.warmup + plan.repeats) * steps + plan.engine * (min(plan.warmup, 1) + plan.repeats)

    def measure(self) -> Measured:
        for _ in range(self.plan.warmup):
            self._round(0)
        if self.plan.warmup:
            self._engine()
        runs: list[BenchmarkRun] = []
        elapsed: list[float] = []
        engine: list[EngineTimes] = []
        with MemoryWatch() as memory:
            for repeat in range(self.plan.repeats):
                engine += self._engine()
                found, elapsed_s = self._round(repeat)
                runs += found
                elapsed.append(elapsed_s)
        return Measured(tuple(runs), tuple(elapsed), tuple(engine), memory)

    def _engine(self) -> list[EngineTimes]:
        if not self.plan.engine:
            return []
        times = time_engine(self.model, self._n_prompt, self.plan.max_tokens, pin=self.plan.pin)
        self._advance()
        return [times]

    def _round(self, repeat: int) -> tuple[list[BenchmarkRun], float]:
        """Generate all texts once; return one run per text, and the total wall time."""
        if self.plan.n_parallel > 1:
            found = run_together(self.texts, repeat, self.plan.n_parallel, self.sampling)
            self._advance()
            return found
        runs = [self._run(repeat, index, text) for index, text in enumerate(self.texts)]
        return runs, sum(run.elapsed_s for run in runs)

    def _run(self, repeat: int, index: int, text: TimedText) -> BenchmarkRun:
        found = text.run(repeat, index)
        self._advance()
        return found

    def _advance(self) -> None:
        self._done += 1
        self._report(self._done, self._total)


def _settings(
    model: Model, sampling: SamplingSettings, plan: _Plan, texts: list[str], timed: tuple[TimedText, ...]
) -> BenchmarkSettings:
    chosen = model.settings
    threads = {"n_threads": plan.pin, "n_threads_batch": plan.pin} if plan.pin else {}
    return BenchmarkSettings(
        **model.compute(lambda _: describe(model)),
        **{name: chosen[name] for name in _MODEL_SETTINGS} | threads,
        n_prompts=len(timed),
        n_prompt=tuple(text.n_prompt for text in timed),
        prompts_sha256=sha256(chr(0).join(texts)),
        max_tokens=plan.max_tokens,
        warmup=plan.warmup,
        repeats=plan.repeats,
        n_parallel=plan.n_parallel,
        **{name: getattr(sampling, name) for name in _SAMPLING},
        seed=sampling.seed or 0,
        constrained=sampling.grammar is not None,
        adapt_threads=chosen.adapt_threads and plan.pin is None,
    )


def _notes(model: Model, plan: _Plan, options: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if plan.pin and plan.pin < model.settings.n_threads:
        notes.append(
            f"Other programs left {plan.pin} of {model.settings.n_threads} cores when this began: measured with "
            f"{counted(plan.pin, 'thread')}."
        )
    if not model.settings.flash_attn:
        notes.append("This model was loaded without flash attention; llama-bench uses it by default.")
    if model.settings.n_gpu_layers:
        notes.append("Memory is this process's RAM, without the memory of other devices.")
    if plan.n_parallel > 1:
        notes.append(
            "Prompts ran together: until each of the first ones has a token, time counts as prompt processing, after that "
            "as generation. The engine's tests use one sequence."
        )
    if options.get("stop"):
        notes.append("Stop sequences were ignored, so that every run generates all its tokens.")
    return tuple(notes)
