"""Records of a speed prediction."""

from __future__ import annotations

import dataclasses
from typing import Literal

from labkit.records import Record

Limit = Literal["bandwidth", "compute", "overhead"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SpeedPart(Record):
    """One kind of work in one pass through the model."""

    name: str  #: "Q4_K 4096x11008" for matrices of that type and shape, "attention over … cells" or "small operations"
    count: float  #: number of them
    n_bytes: float  #: read in total
    operations: float  #: computed in total
    bandwidth_s: float  #: to read those bytes at the machine's bandwidth, a lower bound
    compute_s: float  #: to compute with weights already in a cache
    predicted_s: float  #: of llama.cpp's kernels, with weights read from where the model's would be
    limit: Limit


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SpeedPrediction(Record):
    """Predicted speed of a model on this machine's CPU, from its header and llama.cpp's kernels."""

    decode_tokens_per_second: float  #: of all sequences, by llama.cpp alone: no sampling, no text
    prompt_tokens_per_second: float  #: prefill speed for a prompt of ``n_prompt`` tokens
    limit: Limit  #: reading, computing, or overhead: many small operations, each with a barrier of all threads
    prompt_limit: Limit
    roofline_tokens_per_second: float  #: upper bound from bandwidth: sequences divided by the time to read all bytes once
    bytes_per_pass: float  #: weights and cache read for one token of each sequence
    operations_per_token: float  #: multiplications and additions
    read_bytes_per_second: float  #: this machine's bandwidth
    operations_per_second: float  #: the kernels' speed on this model's matrices with many tokens at once
    n_threads: int
    n_parallel: int  #: sequences decoded together
    depth: int  #: tokens already in the context
    n_prompt: int  #: tokens of the prompt
    flash_attn: bool
    parts: tuple[SpeedPart, ...]  #: of a decode step
    prompt_parts: tuple[SpeedPart, ...]  #: of a prefill pass of ``n_ubatch`` tokens
    assumptions: tuple[str, ...]
