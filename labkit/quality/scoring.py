"""The logits of many positions of a text, row by row, in a context separate from the model's.

`Model` keeps one row of logits, enough to generate text. Measuring how well a model predicts a given text needs one row
per token; the rows are passed on in slices, so memory use does not grow with the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labkit.engine.job import Job
from labkit.engine.native import C
from labkit.engine.stepping import Stepper
from labkit.second_context import fill, second_context, token_batch

if TYPE_CHECKING:
    from labkit.engine.model import Model

Rows = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]
Consume = Callable[[Rows, Tokens], object]

_SLICE_BYTES = 128 * 1024**2  # logits held at a time: 256 rows of 131,072 tokens


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a text, computed on an empty cache: token ``i`` is at position ``i``."""

    tokens: Tokens
    targets: Tokens  # the true successors of the last tokens


def score_windows(model: Model, windows: Iterable[Window], n_ctx: int, consume: Consume) -> None:
    """Compute windows of up to ``n_ctx`` tokens and pass their logits to ``consume``; the model's cache is not changed.

    ``consume`` is called in the model's thread, in the order of the text, with logits of shape (rows, n_vocab), which are
    valid until it returns, and the rows' targets.
    """
    model.compute(lambda job: _Scoring(model, job, n_ctx, consume).run(windows))


class _Scoring:
    """One run, in the model's thread."""

    def __init__(self, model: Model, job: Job[Any], n_ctx: int, consume: Consume) -> None:
        self.model, self.job, self.consume, self.n_ctx = model, job, consume, n_ctx
        self.n_vocab = model.native.n_vocab
        self.n_batch = min(n_ctx, model.settings.n_ubatch)
        self.n_rows = max(1, min(self.n_batch, _SLICE_BYTES // (4 * self.n_vocab)))
        self._phase = model.new_phase()  # rows of logits take longer than a prompt's tokens

    def run(self, windows: Iterable[Window]) -> None:
        """Compute the windows in order."""
        with (
            second_context(self.model, n_ctx=self.n_ctx, n_batch=self.n_batch, n_rows=self.n_rows) as ctx,
            token_batch(self.n_batch) as batch,
            self.model.steps(self.job, ctx=ctx) as steps,
        ):
            for window in windows:
                C.llama_memory_clear(C.llama_get_memory(ctx), True)
                first = len(window.tokens) - len(window.targets)
                for start in range(0, first, self.n_batch):
                    self._decode(steps, batch, window.tokens[: min(first, start + self.n_batch)], start, 0)
                for start in range(first, len(window.tokens), self.n_rows):
                    end = start + self.n_rows
                    self._decode(steps, batch, window.tokens[:end], start, self.n_rows)
                    targets = window.targets[start - first : end - first]
                    rows = np.ctypeslib.as_array(C.llama_get_logits(ctx), (len(targets), self.n_vocab))
                    self.consume(rows, targets)

    def _decode(self, steps: Stepper, batch: Any, tokens: Tokens, start: int, n_rows: int) -> None:
        """Decode tokens from ``start`` on, with a row of logits for each of the last ``n_rows``."""
        fill(batch, tokens[start:], start, n_rows)
        steps.decode(batch, batch.n_tokens, self._phase if n_rows else None)
