"""Divergence of a model's predictions from a reference model's: `measure_divergence`."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from labkit.engine.model import Model
from labkit.errors import ArgumentError
from labkit.progress import Progress, reporting
from labkit.quality.logits import Gap, divergence, log_softmax
from labkit.quality.perplexity import Surprises
from labkit.quality.scoring import Rows, Tokens, Window, score_windows
from labkit.quality.windows import check_size, counted, evaluation_text, text_windows
from labkit.records import Record
from labkit.units import format_bytes


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class DivergenceResult(Record):
    """Result of `measure_divergence`.

    Attributes
    ----------
    kl_divergence, kl_standard_error : float
        Mean Kullback-Leibler divergence from the reference in nats, and its standard error; 0 means identical predictions.
    kl_median, kl_p99, kl_max : float
        Median, 99th percentile and maximum over the scored tokens.
    top_token_agreement : float
        Share of tokens for which both models have the same most likely successor, 0 to 1.
    delta_p_mean, delta_p_rms : float
        Change in the true token's probability, -1 to 1: its mean (below 0 is worse) and its root mean square.
    perplexity, perplexity_standard_error, reference_perplexity : float
        Perplexity of the model and of the reference on the same tokens.
    perplexity_ratio : float
        The model's perplexity divided by the reference's.
    n_scored, n_windows, n_ctx : int
        Scored tokens, windows, tokens per window.
    """

    kl_divergence: float
    kl_standard_error: float
    kl_median: float
    kl_p99: float
    kl_max: float
    top_token_agreement: float
    delta_p_mean: float
    delta_p_rms: float
    perplexity: float
    perplexity_standard_error: float
    reference_perplexity: float
    perplexity_ratio: float
    n_scored: int
    n_windows: int
    n_ctx: int


def measure_divergence(
    model: Model,
    reference: Model,
    text: str | None = None,
    *,
    n_ctx: int = 512,
    progress: Progress | bool | None = None,
) -> DivergenceResult:
    """Measure how far a model's predictions are from those of the model it was made from.

    Perplexity measures how well a model predicts *this text*, which can improve by chance. The divergence measures how much
    every prediction has changed; it detects quantization loss long before perplexity does.

    Parameters
    ----------
    model, reference : Model
        Models with the same vocabulary; the reference should be the F16 file.
    text, n_ctx, progress
        As for `measure_perplexity`.

    Returns
    -------
    DivergenceResult

    Raises
    ------
    ArgumentError
        When the vocabularies differ, the text is too short, or the disk is too full.
    GenerationError
        As for `measure_perplexity`.

    Notes
    -----
    The reference's predictions are stored in a temporary file (4 bytes per scored token and vocabulary entry), so memory
    use does not grow with the text.

    References
    ----------
    llama.cpp ``tools/perplexity/perplexity.cpp``: ``kl_divergence``. It stores the reference's logits in 16 bits; labkit
    uses 32.
    """
    size, _ = check_size(n_ctx, None)
    chosen = evaluation_text() if text is None else text
    windows = text_windows(reference, chosen, size)
    _refuse_other_vocabulary(windows, text_windows(model, chosen, size), model, reference)
    with (
        reporting(progress, "divergence", "window") as report,
        tempfile.TemporaryDirectory() as folder,
        recorded(reference, windows, size, Path(folder), lambda done, total: report(done, 2 * total)) as predictions,
    ):
        return compare_with(predictions, model, windows, size, lambda done, total: report(total + done, 2 * total))


def _refuse_other_vocabulary(ours: list[Window], theirs: list[Window], model: Model, reference: Model) -> None:
    same = model.n_vocab() == reference.n_vocab() and len(ours) == len(theirs)
    if not same or any((a.tokens != b.tokens).any() for a, b in zip(ours, theirs, strict=True)):
        raise ArgumentError(
            "these two models do not share a vocabulary, so their predictions cannot be compared: "
            "the reference must be the model the other was made from"
        )


class Predictions:
    """A reference's predictions in a file (rows of log probabilities), and its surprises on the same tokens."""

    def __init__(self, file: IO[bytes], n_vocab: int) -> None:
        self.file, self._n_vocab = file, n_vocab
        self.surprises = Surprises()

    def write(self, logits: Rows, targets: Tokens) -> None:
        """Add rows of logits."""
        self.surprises.add(logits, targets)
        log_softmax(logits).tofile(self.file)

    def read(self, n_rows: int) -> Rows:
        """Return the next rows, shape (n_rows, n_vocab)."""
        rows = np.fromfile(self.file, dtype=np.float32, count=n_rows * self._n_vocab)
        return rows.reshape(n_rows, self._n_vocab)


@contextmanager
def recorded(
    reference: Model, windows: list[Window], n_ctx: int, folder: Path, report: Progress = lambda _done, _total: None
) -> Iterator[Predictions]:
    """Compute a reference's predictions and keep them in a file during the ``with`` block."""
    n_vocab = reference.n_vocab()
    needed = 4 * n_vocab * sum(len(window.targets) for window in windows)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise ArgumentError(
            f"the reference's predictions need {format_bytes(needed)}, but {folder} has {format_bytes(free)} free: "
            "free disk space, or give a shorter text"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        predictions = Predictions(file, n_vocab)
        score_windows(reference, counted(windows, report), n_ctx, predictions.write)
        yield predictions


def compare_with(
    predictions: Predictions,
    model: Model,
    windows: list[Window],
    n_ctx: int,
    report: Progress = lambda _done, _total: None,
) -> DivergenceResult:
    """Compute a model's predictions on the same windows, and compare them with the reference's."""
    found, gaps = Surprises(), list[Gap]()
    predictions.file.seek(0)

    def compare(logits: Rows, targets: Tokens) -> None:
        found.add(logits, targets)
        gaps.append(divergence(predictions.read(len(targets)), logits, targets))

    score_windows(model, counted(windows, report), n_ctx, compare)
    kl, same_top, delta_p = (np.concatenate(parts) for parts in zip(*gaps, strict=True))
    (perplexity, error), (base, _) = found.perplexity(), predictions.surprises.perplexity()
    return DivergenceResult(
        kl_divergence=float(kl.mean()),
        kl_standard_error=float(kl.std() / np.sqrt(max(1, len(kl) - 1))),
        kl_median=float(np.median(kl)),
        kl_p99=float(np.quantile(kl, 0.99)),
        kl_max=float(kl.max()),
        top_token_agreement=float(same_top.mean()),
        delta_p_mean=float(delta_p.mean()),
        delta_p_rms=float(np.sqrt((delta_p**2).mean())),
        perplexity=perplexity,
        perplexity_standard_error=error,
        reference_perplexity=base,
        perplexity_ratio=perplexity / base,
        n_scored=found.count,
        n_windows=len(windows),
        n_ctx=n_ctx,
    )
