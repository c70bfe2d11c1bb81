"""Parts of a benchmark result: runs, settings, the gap between llama.cpp's speed and the user's."""

from __future__ import annotations

import dataclasses

from labkit.records import Record


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BenchmarkRun(Record):
    """One prompt in one repeat.

    Attributes
    ----------
    repeat, prompt : int
        Indices, from 0.
    n_prompt, n_generated : int
        Tokens.
    time_to_first_token_s : float
        From the call to the first token: tokenizing, processing the prompt on an empty cache, sampling.
    prefill_s : float
        Prompt processing alone, until its logits are available.
    decode_s : float
        From the first token to the last.
    elapsed_s : float
        From the call to the return of the whole text.
    engine_decode_s, sampler_s, text_s : float or None
        Parts of ``decode_s``: computing as counted by llama.cpp, sampling, and detokenizing. None if several prompts ran
        together.
    token_times_s : tuple of float
        From the call to each token.
    n_shared : int
        Prompt tokens copied from another prompt of the batch instead of computed.
    n_threads : int or tuple of (int, int)
        Threads used for generation; (threads, tokens) pairs in order if their number changed.
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
        """Seconds between consecutive tokens."""
        return tuple(b - a for a, b in zip(self.token_times_s, self.token_times_s[1:], strict=False))


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BenchmarkSettings(Record):
    """The settings that two results must share to be comparable.

    Attributes
    ----------
    model : str
        The file's name.
    model_type : str
        llama.cpp's description, such as ``"llama 256M Q4_1"``.
    model_size_bytes, model_n_params : int
        Of the weights.
    backends : str
        The backends that llama.cpp was built with.
    n_threads, …, devices
        As in `ModelSettings`.
    n_prompts : int
    n_prompt : tuple of int
        Tokens of each prompt.
    prompts_sha256 : str
        Hash of the prompts' text; it differs for different texts.
    max_tokens, …, seed
        Arguments of `benchmark_inference`.
    adapt_threads : bool
        Whether fewer threads could be used while other programs needed the cores; the runs have the numbers.
    constrained : bool
        Whether a grammar or schema was used.
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
    type_k: str
    type_v: str
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
    """The parts of the time per token: the user's time is the sum of the others.

    Attributes
    ----------
    user_s_per_token : float
        Of the median repeat, which also provides all parts except the engine's.
    engine_s_per_token : float
        By llama-bench's protocol, random tokens and an empty cache: the median of the repeats.
    depth_s_per_token : float
        Additional computing time that llama.cpp counts for a token of the text: it follows a prompt, and attention reads all
        of it. Includes the noise between the two runs, and can be negative.
    sampler_s_per_token, text_s_per_token : float
        Sampling and detokenizing.
    python_s_per_token : float
        The rest: the loop, calls into C, chunks of text.
    """

    user_s_per_token: float
    engine_s_per_token: float
    depth_s_per_token: float
    sampler_s_per_token: float
    text_s_per_token: float
    python_s_per_token: float
