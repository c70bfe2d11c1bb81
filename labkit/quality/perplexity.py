"""How well a model predicts a text: `measure_perplexity`, by the method of llama-perplexity."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import numpy.typing as npt

from labkit.engine.model import Model
from labkit.errors import GenerationError
from labkit.progress import Progress, reporting
from labkit.quality.logits import surprise
from labkit.quality.scoring import Rows, Tokens, score_windows
from labkit.quality.windows import check_size, counted, evaluation_text, text_windows
from labkit.records import Record


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PerplexityResult(Record):
    """Result of `measure_perplexity`.

    Attributes
    ----------
    perplexity : float
        ``exp`` of the mean surprise: the model is as uncertain as in a choice among that many equally likely tokens.
    standard_error : float
        Standard error of the perplexity, from the spread of the scored tokens' surprise.
    n_tokens, n_scored, n_windows : int
        Computed tokens, scored tokens, windows.
    n_ctx : int
        Tokens per window.
    stride : int or None
        Step of the window in tokens; None means adjacent windows.
    elapsed_s, tokens_per_second : float
        Wall time; computed tokens divided by it.
    running : tuple of float
        The perplexity after each window.
    """

    perplexity: float
    standard_error: float
    n_tokens: int
    n_scored: int
    n_windows: int
    n_ctx: int
    stride: int | None
    elapsed_s: float
    tokens_per_second: float
    running: tuple[float, ...]


def measure_perplexity(
    model: Model,
    text: str | None = None,
    *,
    n_ctx: int = 512,
    stride: int | None = None,
    progress: Progress | bool | None = None,
) -> PerplexityResult:
    """Measure how well a model predicts a text; lower is better, 1 is certainty.

    Parameters
    ----------
    model : Model
        From `load_model`; its cache is kept.
    text : str or None
        At least ``2 * n_ctx`` tokens; None is `evaluation_text`.
    n_ctx : int
        Tokens per window, independent of the model's own ``n_ctx``. Figures are comparable only at the same ``n_ctx`` and
        between models with the same vocabulary.
    stride : int or None
        None scores the second half of adjacent windows; a number moves the window by that many tokens and scores the last
        ones, which is slower and gives every token more context.
    progress : callable, bool or None
        Called with (done windows, total windows); True shows a bar.

    Returns
    -------
    PerplexityResult

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For a text that is too short, or an invalid size.
    GenerationError
        When the run was cancelled, llama.cpp fails, or the model's logits are NaN.

    Notes
    -----
    ``perplexity = exp(-1/N * sum(log p(token | the tokens before it in its window)))``. Control tokens in the text are read
    as text. A model with a beginning-of-sequence token gets it at each window's start, as in llama-perplexity. With a
    stride, llama-perplexity chooses the window itself; compare at the ``n_ctx`` that it prints as its calculation chunk.
    It uses flash attention unless given ``-fa off``; labkit uses the loaded model's setting. For the bundled model and the
    lab's text at ``n_ctx`` 512 both give 23.4102 without and 23.4458 with flash attention.

    References
    ----------
    llama.cpp ``tools/perplexity/perplexity.cpp``.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model() as model:
    ...     result = labkit.measure_perplexity(model, "One, two, three, four. " * 20, n_ctx=32)
    >>> result.n_windows, result.n_scored, 1 < result.perplexity < 3
    (5, 75, True)
    """
    size, step = check_size(n_ctx, stride)
    windows = text_windows(model, evaluation_text() if text is None else text, size, step)
    found = Surprises()
    started = time.perf_counter()
    with reporting(progress, "perplexity", "window") as report:
        score_windows(model, counted(windows, report), size, found.add)
    elapsed_s = time.perf_counter() - started
    n_tokens = sum(len(window.tokens) for window in windows)
    return PerplexityResult(
        *found.perplexity(),
        n_tokens=n_tokens,
        n_scored=found.count,
        n_windows=len(windows),
        n_ctx=size,
        stride=step,
        elapsed_s=elapsed_s,
        tokens_per_second=n_tokens / elapsed_s,
        running=found.running(np.cumsum([len(window.targets) for window in windows])),
    )


class Surprises:
    """Collects the surprise of each scored token."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.float64]] = []
        self.count = 0

    def add(self, logits: Rows, targets: Tokens) -> None:
        """Add rows of logits; NaN in them means that the weights are damaged."""
        part = surprise(logits, targets)
        if np.isnan(part).any():
            raise GenerationError("this model's logits are NaN: its weights are damaged, fetch the file again")
        self._parts.append(part)
        self.count += len(part)

    def values(self) -> npt.NDArray[np.float64]:
        """Return all surprises so far, in nats, shape (n_scored,)."""
        return np.concatenate(self._parts)

    def perplexity(self) -> tuple[float, float]:
        """Return the perplexity and its standard error."""
        values = self.values()
        perplexity = _exp(float(values.mean()))
        spread = float(values.std()) / math.sqrt(len(values) - 1) if len(values) > 1 else math.nan
        return perplexity, perplexity * spread

    def running(self, ends: npt.NDArray[np.integer]) -> tuple[float, ...]:
        """Return the perplexity of the first ``ends[i]`` tokens, for each i."""
        return tuple(_exp(float(mean)) for mean in np.cumsum(self.values())[ends - 1] / ends)


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf
