"""The result of a search for settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from labkit.output_files import written
from labkit.records import Record
from labkit.tuned_settings import TUNED


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Tried(Record):
    """Settings that were measured.

    Attributes
    ----------
    n_threads, n_threads_batch : int
        For generation and for prompts.
    n_ubatch : int
        Prompt tokens computed at once.
    flash_attn : bool
    type_k, type_v : str
        Types of the cache.
    n_parallel : int
        Sequences decoded together.
    prompt_s : float or None
        Time to compute the prompt of one sequence; None if it was not measured.
    step_s : float or None
        Time to generate one token of each sequence; None if it was not measured.
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
    """The best settings that `tune` found; pass them to ``load_model(settings=…)``.

    Attributes
    ----------
    model : str
        The file's name.
    goal : str
        ``"latency"``, ``"throughput"`` or ``"memory"``.
    n_prompt, n_gen : int
        Lengths of prompt and text, in tokens, that they were optimized for.
    n_threads, n_threads_batch, n_batch, n_ubatch, flash_attn, type_k, type_v
        Arguments of `load_model`.
    n_parallel : int
        Sequences decoded together, for `generate_batch`.
    prompt_tokens_per_second, decode_tokens_per_second : float
        Measured with these settings, for all sequences together.
    memory_bytes : int
        RAM needed with these settings, by `estimate_memory_usage`.
    speedup : float
        Time with `load_model`'s defaults over the time with these settings, measured side by side at the end; 1 if they are
        the defaults.
    n_runs, n_possible : int
        Number of settings measured, and of all possible combinations.
    elapsed_s : float
    reasons : dict
        Setting -> why it was chosen, with the measured speeds.
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
        """Return everything as JSON; with a path, also write it there, for ``load_model(settings=path)``."""
        return written(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", path).rstrip()

    @property
    def for_loading(self) -> dict[str, Any]:
        """The arguments for `load_model`."""
        return {name: self[name] for name in TUNED}
