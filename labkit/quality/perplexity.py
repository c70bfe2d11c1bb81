"""How well a model foretells a text: `measure_perplexity`, by llama-perplexity's own method."""

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

__all__ = ["PerplexityResult", "Surprises", "measure_perplexity"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PerplexityResult(Record):
    """What `measure_perplexity` found.

    Attributes
    ----------
    perplexity : float
        ``exp`` of the mean surprise: as unsure as if the model chose among so many tokens, all alike.
    standard_error : float
        Of the perplexity, from the spread of the scored tokens' surprise.
    n_tokens, n_scored, n_windows : int
        Tokens computed, tokens scored, windows.
    n_ctx : int
        Tokens a window.
    stride : int or None
        Tokens that the window moves by; None is side by side.
    elapsed_s, tokens_per_second : float
        Wall time, and computed tokens over it.
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
    """Measure how well a model foretells a text; lower is better, 1 is certainty.

    Parameters
    ----------
    model : Model
        From `load_model`; what it has cached stays.
    text : str or None
        At least ``2 * n_ctx`` tokens; None is `evaluation_text`.
    n_ctx : int
        Tokens a window, whatever the model was loaded with. Figures can be compared only at the same ``n_ctx``, and only
        between models with the same vocabulary.
    stride : int or None
        None scores the second half of windows that lie side by side; a number moves the window by as many tokens and scores
        the last ones, which is slower and gives every token more context.
    progress : callable, bool or None
        Gets (windows done, windows in all); True shows a bar.

    Returns
    -------
    PerplexityResult

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For a text that is too short, a size that is none.
    GenerationError
        When it was cancelled, the engine fails, or the model computes what are no numbers.

    Notes
    -----
    ``perplexity = exp(-1/N * sum(log p(token | the tokens before it in its window)))``. Control tokens in the text are read
    as text, and a model that begins texts with a token of its own gets it at each window's start, as with llama-perplexity.
    With a stride that tool chooses the window itself; compare at the ``n_ctx`` that it prints as its calculation chunk.
    It computes with flash attention unless told ``-fa off``; here it is as the model was loaded. For the bundled model and
    the lab's text at ``n_ctx`` 512 both give 23.4102 without and 23.4458 with it.

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
    """The surprise of each scored token, as it comes."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.float64]] = []
        self.count = 0

    def add(self, logits: Rows, targets: Tokens) -> None:
        """Take some rows of logits.

        Raises
        ------
        GenerationError
            When they are no numbers: the weights are damaged.
        """
        part = surprise(logits, targets)
        if np.isnan(part).any():
            raise GenerationError("this model computes what are no numbers (NaN): its weights are damaged")
        self._parts.append(part)
        self.count += len(part)

    def values(self) -> npt.NDArray[np.float64]:
        """Return everything so far, in nats, shape (n_scored,)."""
        return np.concatenate(self._parts)

    def perplexity(self) -> tuple[float, float]:
        """Return the perplexity and its standard error."""
        values = self.values()
        perplexity = _exp(float(values.mean()))
        spread = float(values.std()) / math.sqrt(len(values) - 1) if len(values) > 1 else math.nan
        return perplexity, perplexity * spread

    def running(self, ends: npt.NDArray[np.integer]) -> tuple[float, ...]:
        """Return the perplexity of the first ``ends[i]`` tokens, for each."""
        return tuple(_exp(float(mean)) for mean in np.cumsum(self.values())[ends - 1] / ends)


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf
