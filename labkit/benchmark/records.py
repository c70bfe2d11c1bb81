"""What a benchmark is made of: runs, settings, the gap between the engine's speed and the user's."""

from __future__ import annotations

import dataclasses

from labkit.records import Record

__all__ = ["BenchmarkRun", "BenchmarkSettings", "SpeedGap"]


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
    n_threads : int or tuple of (int, int)
        Threads that generated, or (threads, tokens) pairs in order where their number changed.
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
    n_threads: int | tuple[tuple[int, int], ...] = 0

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
    adapt_threads : bool
        Whether fewer threads were used while other programs needed the cores; the runs say how many.
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
    adapt_threads: bool = False


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
