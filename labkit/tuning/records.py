"""What a search for settings finds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from labkit.engine.tuned import TUNED
from labkit.output_files import written
from labkit.records import Record

__all__ = ["Tried", "TunedSettings"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Tried(Record):
    """Settings that were measured.

    Attributes
    ----------
    n_threads, n_threads_batch : int
        For generating and for prompts.
    n_ubatch : int
        Tokens of a prompt that are computed together.
    flash_attn : bool
    type_k, type_v : str
        Types of the cache.
    n_parallel : int
        Sequences together.
    prompt_s : float or None
        Computing the prompt of one sequence; None where the prompt was not computed with these threads.
    step_s : float or None
        Generating one token of each sequence; None where nothing was generated.
    """

    n_threads: int
    n_threads_batch: int
    n_ubatch: int
    flash_attn: bool
    type_k: str
    type_v: str
    n_parallel: int
    prompt_s: float | None
    step_s: float | None


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TunedSettings(Record):
    """The settings that `tune` found best; ``load_model(settings=…)`` takes them.

    Attributes
    ----------
    model : str
        The file's name.
    goal : str
        ``"latency"``, ``"throughput"`` or ``"memory"``.
    n_prompt, n_gen : int
        Tokens of the prompt and of the text that they are best for.
    n_threads, n_threads_batch, n_batch, n_ubatch, flash_attn, type_k, type_v
        As `load_model` takes them.
    n_parallel : int
        Sequences together, for `generate_batch`.
    prompt_tokens_per_second, decode_tokens_per_second : float
        Measured with them, generated tokens of all sequences.
    memory_bytes : int
        What they take, by `estimate_memory_usage`.
    speedup : float
        Time of `load_model`'s own choice over theirs for the same work, measured side by side at the end; 1 where that is
        the choice.
    n_runs, n_possible : int
        Settings that were measured, and that could have been.
    elapsed_s : float
    reasons : dict
        Setting -> why, with the figures.
    tried : tuple of Tried
    """

    model: str
    goal: str
    n_prompt: int
    n_gen: int
    n_threads: int
    n_threads_batch: int
    n_batch: int
    n_ubatch: int
    flash_attn: bool
    type_k: str
    type_v: str
    n_parallel: int
    prompt_tokens_per_second: float
    decode_tokens_per_second: float
    memory_bytes: int
    speedup: float
    n_runs: int
    n_possible: int
    elapsed_s: float
    reasons: dict[str, str]
    tried: tuple[Tried, ...] = dataclasses.field(repr=False, default=())

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything as JSON, and write it to a file if one is named; ``load_model(settings=path)`` reads it."""
        return written(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", path).rstrip()

    @property
    def for_loading(self) -> dict[str, Any]:
        """The arguments for `load_model`."""
        return {name: self[name] for name in TUNED}
