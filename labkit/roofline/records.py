"""Records of a speed prediction."""

from __future__ import annotations

import dataclasses
from typing import Literal

from labkit.records import Record

Limit = Literal["bandwidth", "compute", "overhead"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SpeedPart(Record):
    """One kind of work in one pass through the model.

    Attributes
    ----------
    name : str
        ``"Q4_K 4096x11008"`` for matrices of that type and shape, ``"attention"`` or ``"small operations"``.
    count : float
        Number of them.
    n_bytes, operations : float
        Bytes read and operations computed, in total.
    bandwidth_s : float
        Time to read those bytes at the machine's bandwidth, a lower bound.
    compute_s : float
        Time to compute with weights already in a cache.
    predicted_s : float
        Time of llama.cpp's kernels, with weights read from where the model's would be.
    limit : str
        ``"bandwidth"``, ``"compute"`` or ``"overhead"``.
    """

    name: str
    count: float
    n_bytes: float
    operations: float
    bandwidth_s: float
    compute_s: float
    predicted_s: float
    limit: Limit


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SpeedPrediction(Record):
    """Predicted speed of a model on this machine's CPU, from its header and llama.cpp's kernels.

    Attributes
    ----------
    decode_tokens_per_second : float
        Generated tokens of all sequences, by llama.cpp alone: no sampling, no text.
    prompt_tokens_per_second : float
        Prefill speed for a prompt of ``n_prompt`` tokens.
    limit, prompt_limit : str
        What limits the speed: ``"bandwidth"`` (reading weights and cache), ``"compute"`` or ``"overhead"`` (many small
        operations with a barrier of all threads after each).
    roofline_tokens_per_second : float
        Upper bound from bandwidth: sequences divided by the time to read all bytes once.
    bytes_per_pass, operations_per_token : float
        Bytes of weights and cache read for one token of each sequence; multiplications and additions per token.
    read_bytes_per_second, operations_per_second : float
        This machine's bandwidth; the kernels' compute speed on this model's matrices with many tokens at once.
    n_threads, n_parallel, depth, n_prompt : int
        Threads; sequences decoded together; tokens already in the context; tokens of the prompt.
    flash_attn : bool
    parts, prompt_parts : tuple of SpeedPart
        Breakdown of a decode step and of a prefill pass of ``n_ubatch`` tokens.
    assumptions : tuple of str
    """

    decode_tokens_per_second: float
    prompt_tokens_per_second: float
    limit: Limit
    prompt_limit: Limit
    roofline_tokens_per_second: float
    bytes_per_pass: float
    operations_per_token: float
    read_bytes_per_second: float
    operations_per_second: float
    n_threads: int
    n_parallel: int
    depth: int
    n_prompt: int
    flash_attn: bool
    parts: tuple[SpeedPart, ...]
    prompt_parts: tuple[SpeedPart, ...]
    assumptions: tuple[str, ...]
