"""llama.cpp's pointers to a loaded model, and facts about it, for computations in the model's thread."""

from __future__ import annotations

import dataclasses
from typing import Any

from labkit.engine.native import AbortFlag, C
from labkit.engine.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class NativeModel:
    """``model.native``: use it in the model's thread only, in a function passed to ``model.compute``."""

    ctx: Any
    model: Any
    vocab: Any
    tokenizer: Tokenizer
    flag: AbortFlag  # ends the running computation
    n_vocab: int
    has_state: bool  # layers have a recurrent state, which cannot return to an earlier token
    has_window: bool  # layers keep only a sliding window, which cannot return far

    @property
    def memory(self) -> Any:
        """The context's cache; None for a model without one, such as BERT."""
        return C.llama_get_memory(self.ctx)
