"""What a prediction of speed says."""

from __future__ import annotations

import dataclasses
from typing import Literal

from labkit.records import Record

__all__ = ["Limit", "SpeedPart", "SpeedPrediction"]

Limit = Literal["bandwidth", "compute", "overhead"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SpeedPart(Record):
    """One kind of work in one pass through the model.

    Attributes
    ----------
    name : str
        ``"Q4_K 4096x11008"`` for matrices of that type and shape, ``"attention"``, ``"small operations"``.
    count : float
        How many of them.
    n_bytes, operations : float
        Read, and computed, by all of them.
    bandwidth_s : float
        Reading those bytes at the machine's bandwidth: no pass can be faster.
    compute_s : float
        Computing alone, with weights that are in a cache already.
    predicted_s : float
        What llama.cpp's kernel took for them, read from where the model's weights would be.
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
    """How fast a model should be on this machine's CPU, from its header and from llama.cpp's kernels.

    Attributes
    ----------
    decode_tokens_per_second : float
        Generated tokens of all sequences, by the engine alone: no sampling, no text.
    prompt_tokens_per_second : float
        Reading a prompt of ``n_prompt`` tokens.
    limit, prompt_limit : str
        What takes the time: ``"bandwidth"`` (reading weights and cache), ``"compute"`` or ``"overhead"`` (many small
        operations, for which all threads wait for one another).
    roofline_tokens_per_second : float
        The most that bandwidth allows: sequences over the time of reading all bytes once.
    bytes_per_pass, operations_per_token : float
        Weights and cache read for one token of each sequence; multiplications and additions a token.
    read_bytes_per_second, operations_per_second : float
        This machine's bandwidth, and what its kernels reach on this model's matrices with many tokens at once.
    n_threads, n_parallel, depth, n_prompt : int
        Sequences together; tokens before the one that is generated; tokens of the prompt.
    flash_attn : bool
    parts, prompt_parts : tuple of SpeedPart
        Where the time goes, for a pass of decoding and one of ``n_ubatch`` tokens of the prompt.
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
