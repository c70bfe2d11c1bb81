"""llama.cpp's pointers to a loaded model, and facts about it: what a computation in the model's thread needs."""

from __future__ import annotations

import dataclasses
from typing import Any

from labkit.engine.chat_prompt import Tokenizer
from labkit.engine.native import AbortFlag, C


@dataclasses.dataclass(frozen=True)
class NativeModel:
    """``model.native``: to be used in the model's thread, in a function that is given to ``model.compute``."""

    ctx: Any
    model: Any
    vocab: Any
    tokenizer: Tokenizer
    flag: AbortFlag  # ends the computation that is running
    n_vocab: int
    has_state: bool  # layers keep a recurrent state, which cannot go back to an earlier token
    has_window: bool  # layers keep the cells of a sliding window alone, which cannot go back far

    @property
    def memory(self) -> Any:
        """The context's cache; None for a model without one, such as BERT."""
        return C.llama_get_memory(self.ctx)
