"""The measurements of `benchmark_inference`: a generation with clocks, and llama-bench's protocol.

The clocks are llama.cpp's counters (``llama_perf_context``) for computing, and ``time.perf_counter`` for everything between
two computations. Reading them takes about a microsecond per token.
"""

from __future__ import annotations

import ctypes
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.benchmark.records import BenchmarkRun
from labkit.engine.detokenizer import TextAssembler
from labkit.engine.generation import Generation, GenerationRequest
from labkit.engine.native import C
from labkit.engine.sampler import Sampler
from labkit.engine.sampling_settings import SamplingSettings
from labkit.engine.stepping import CancelledError
from labkit.engine.tokenizer import Tokenizer
from labkit.errors import ContextOverflowError
from labkit.system import engine_build

if TYPE_CHECKING:
    from labkit.engine.job import Job
    from labkit.engine.model import Model
    from labkit.engine.stepping import Stepper


class TimedText:
    """A text that can be generated and timed repeatedly, always with all its tokens: the settings have no stop sequences."""

    def __init__(
        self,
        model: Model,
        prompt: str,
        max_tokens: int,
        settings: SamplingSettings,
        *,
        parse_special: bool,
        pin: int | None = None,
    ) -> None:
        self.model, self.prompt, self.max_tokens, self.settings = model, prompt, max_tokens, settings
        self.parse_special, self.pin = parse_special, pin
        self.n_prompt = len(self.tokens())
        if self.n_prompt + max_tokens > model.n_ctx():
            raise ContextOverflowError(self.n_prompt, max_tokens, model.n_ctx())

    def tokens(self) -> list[int]:
        """Return the prompt's tokens."""
        with self.model.vocabulary() as tokenizer:
            return tokenizer.prompt_tokens(self.prompt, parse_special=self.parse_special)

    def run(self, repeat: int, index: int) -> BenchmarkRun:
        """Generate the text as `generate_text` does, starting with an empty cache."""
        self.model.compute(lambda _: self.model.clear_memory())
        started = time.perf_counter()
        prompt = self.tokens()
        generation: _TimedGeneration = self.model.compute(lambda job: self._generate(job, prompt))
        return generation.times(repeat, index, started, time.perf_counter())

    def _generate(self, job: Job[Any], prompt: list[int]) -> _TimedGeneration:
        model = self.model
        try:
            model.prepare_memory(prompt)
            with model.steps(job, pin=self.pin) as steps:
                generation = _TimedGeneration(steps, model, prompt, self.max_tokens, self.settings)
                report = generation.run(job, lambda _: None)
        finally:
            model.clear_memory()
        if report.finish_reason == "cancelled":
            raise CancelledError
        return generation


class _TimedGeneration(Generation):
    """The loop of `generate_text`, with clocks around its parts; it ends only at ``max_tokens``."""

    def __init__(self, steps: Stepper, model: Model, prompt: list[int], max_tokens: int, settings: SamplingSettings) -> None:
        self.clocked = EndlessTokenizer(model.native.tokenizer)
        self.make_text = _ClockedText
        super().__init__(steps, self.clocked, model.prompt_step, GenerationRequest(prompt, max_tokens, settings))
        self.make_sampler = functools.partial(_ClockedSampler, n_tokens=max_tokens)

    def times(self, repeat: int, index: int, started: float, ended: float) -> BenchmarkRun:
        """Return the times; ``started`` and ``ended`` are from ``time.perf_counter``."""
        sampler, words = self.sampler, self.text
        if not isinstance(sampler, _ClockedSampler) or not isinstance(words, _ClockedText):
            raise CancelledError
        begins, ends = self.clocked.begins, words.ends
        token_times_s = tuple(end - started for end in sampler.ends)
        return BenchmarkRun(
            repeat=repeat,
            prompt=index,
            n_prompt=len(self.prompt),
            n_generated=len(token_times_s),
            time_to_first_token_s=token_times_s[0],
            prefill_s=sampler.begins[0] - self.started_s,
            decode_s=token_times_s[-1] - token_times_s[0],
            elapsed_s=ended - started,
            engine_decode_s=(sampler.counted_ms[1] - sampler.counted_ms[0]) / 1e3 or None,
            # decode_s excludes sampling the first token and detokenizing the last one
            sampler_s=sum(sampler.ends[1:]) - sum(sampler.begins[1:]),
            text_s=sum(ends[:-1]) - sum(begins[:-1]),
            token_times_s=token_times_s,
            n_threads=self.steps.used.summary(),
        )


class _ClockedSampler(Sampler):
    """A sampler that records when it starts, with the logits available, and when it has a token."""

    def __init__(self, *args: Any, n_tokens: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._last = n_tokens - 1
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.counted_ms = [0.0, 0.0]

    def sample(self, ctx: Any, index: int = -1, *, free: bool = False) -> int:
        C.llama_synchronize(ctx)  # wait for a GPU here, so that its computing does not count as sampling
        at = len(self.begins)
        if at == 0:
            self.counted_ms = [C.llama_perf_context(ctx).t_eval_ms] * 2
        elif at == self._last:
            self.counted_ms[1] = C.llama_perf_context(ctx).t_eval_ms
        self.begins.append(time.perf_counter())
        token = super().sample(ctx, index, free=free)
        self.ends.append(time.perf_counter())
        return token


class EndlessTokenizer(Tokenizer):
    """A tokenizer that treats end-of-sequence as an ordinary token, and records when a token's bytes are requested."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer.model, tokenizer.vocab)
        self._own = tokenizer
        self.begins: list[float] = []

    def is_end(self, token: int) -> bool:
        """Return False always, so generation never stops early."""
        self._own.is_end(token)  # called because its time counts
        return False

    def silent_tokens(self) -> list[int]:
        """Return the tokens that add nothing to a text, from the model's tokenizer."""
        return self._own.silent_tokens()

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text."""
        self.begins.append(time.perf_counter())
        return super().piece(token)


class _ClockedText(TextAssembler):
    """A text that records when a token was added."""

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        super().__init__(stops)
        self.ends: list[float] = []

    def add(self, piece: bytes, mark: str = "") -> str:
        text = super().add(piece, mark)
        self.ends.append(time.perf_counter())
        return text


def describe(model: Model) -> dict[str, Any]:
    """Return what llama-bench prints about a model, in its thread: fields of `BenchmarkSettings`."""
    native = model.native.model
    room = ctypes.create_string_buffer(256)
    C.llama_model_desc(native, room, len(room))
    others = [name for name in engine_build().backends if name not in ("CPU", "RPC")]
    others += ["RPC"] if any(":" in name for name in model.settings.devices) else []  # an address, host:port
    return {
        "model": Path(model.model_path).name,
        "model_type": room.value.decode("utf-8", "replace"),
        "model_size_bytes": int(C.llama_model_size(native)),
        "model_n_params": int(C.llama_model_n_params(native)),
        "backends": ",".join(others) or "CPU",
    }
