"""A model, the settings that it would be loaded with, and what others would cost."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from labkit.engine import ModelSettings
from labkit.gguf_file import Header
from labkit.gguf_file.formats import TENSOR_TYPES
from labkit.lint.machine import Machine
from labkit.lint.records import Severity
from labkit.memory import MemoryEstimate
from labkit.memory.estimate import estimate_plan, make_plan, n_vocab

__all__ = ["Case"]

_SHARE = 0.05  # of the memory that a load takes: what costs less is worth a note only


@dataclasses.dataclass(frozen=True)
class Case:
    """What is looked at.

    Attributes
    ----------
    header : Header
    settings : ModelSettings
        What it would be loaded with.
    preferred : ModelSettings
        What load_model would choose if nothing but sizes and threads were said.
    options : dict
        The keyword arguments that were given, checked.
    n_gpu_layers : int
        As it was asked for, whatever the engine can do.
    devices : sequence or None
        What the caller named for the layers.
    as_llama : bool
        Whether ``llama_cpp.Llama`` would load it.
    machine : Machine
    """

    header: Header
    settings: ModelSettings
    preferred: ModelSettings
    options: dict[str, Any]
    n_gpu_layers: int
    devices: Sequence[Any] | None
    as_llama: bool
    machine: Machine

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return n_vocab(self.header)

    @property
    def kept_logits_bytes(self) -> int:
        """What Llama keeps beside the engine with ``logits_all``: the rows of a batch but one, and those of the context."""
        rows = self.settings.n_batch - 1 + self.settings.n_ctx if self.options.get("logits_all") else 0
        return 4 * self.n_vocab * rows

    @functools.cached_property
    def estimate(self) -> MemoryEstimate:
        """What these settings take, by the formula."""
        return self.estimate_with()

    def estimate_with(self, **changes: Any) -> MemoryEstimate:
        """Return what these settings with some changes take, by the formula."""
        settings = self.settings
        plan: dict[str, Any] = {
            "n_ctx": settings.n_ctx,
            "n_gpu_layers": settings.n_gpu_layers,
            "type_k": settings.type_k,
            "type_v": settings.type_v,
            "n_batch": settings.n_batch,
            "n_ubatch": settings.n_ubatch,
            "n_seq": 1,
            "use_mmap": settings.use_mmap,
            "flash_attn": settings.flash_attn,
            "swa_full": settings.swa_full,
            "kv_unified": False,
            "n_outputs_max": settings.n_outputs_max,
            "devices": self.devices,
            "tensor_split": self.options.get("tensor_split") if self.devices else None,
            **changes,
        }
        if isinstance(plan["type_v"], int) and TENSOR_TYPES[plan["type_v"]].is_quantized:
            plan["flash_attn"] = True  # without it there is no such cache to reckon with: that is a finding of its own
        return estimate_plan(make_plan(self.header, plan.pop("n_ctx"), **plan), "formula")

    def saves(self, **changes: Any) -> int:
        """Return the bytes that changed settings would save, on the host and on devices together."""
        return self.estimate.total_bytes - self.estimate_with(**changes).total_bytes

    def weigh(self, n_bytes: int) -> Severity:
        """Return how much a cost in memory matters: against all that the load takes."""
        return "warning" if n_bytes >= _SHARE * self.estimate.total_bytes else "note"
