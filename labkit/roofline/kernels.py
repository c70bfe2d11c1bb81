"""Time of llama.cpp's kernels on this machine: one matrix, one layer's attention, one small operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from labkit.children import ask_child, explain
from labkit.errors import LabkitError

_CHILD = Path(__file__).with_name("child.py")
_SECONDS = 0.06  # for each
_LIMIT_S = 120.0


@dataclasses.dataclass(frozen=True)
class MatrixJob:
    """Product of a weight matrix and activations."""

    type: int  # ggml's number
    n_in: int
    n_out: int
    n_columns: int  # tokens
    n_copies: int = 1  # matrices to alternate between, so that they are read from RAM or cache as in a model
    huge_pages: bool = False  # request them, as for weights that are read instead of mapped; it takes 64 MiB and more
    kind: str = "matrix"


@dataclasses.dataclass(frozen=True)
class AttentionJob:
    """One layer's attention over ``n_cells`` cells (F16) for ``n_tokens`` tokens; alternates between ``n_copies`` layers."""

    n_heads: int
    n_heads_kv: int
    key_length: int
    value_length: int
    n_cells: int
    n_tokens: int
    flash_attn: bool
    n_copies: int = 1
    kind: str = "attention"


@dataclasses.dataclass(frozen=True)
class SmallJob:
    """An operation on ``n_columns`` rows of ``width`` numbers."""

    width: int
    n_columns: int
    kind: str = "small"


Job = MatrixJob | AttentionJob | SmallJob


def time_kernels(jobs: Sequence[Job], n_threads: int) -> dict[Job, float]:
    """Time llama.cpp's kernels in a subprocess; return the median seconds per operation over some 0.05 s."""
    wanted = list(dict.fromkeys(jobs))
    request = {"jobs": [dataclasses.asdict(job) for job in wanted], "n_threads": n_threads, "seconds": _SECONDS}
    with explain("timing llama.cpp's kernels", LabkitError, "is this machine busy?", died="please report this"):
        answer = ask_child(_CHILD, request, _LIMIT_S)
    return dict(zip(wanted, answer["times"], strict=True))
