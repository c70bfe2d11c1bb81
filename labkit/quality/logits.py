"""Functions on rows of logits: a model's surprise at a token, and the divergence between two models' predictions.

All functions process a few rows at a time, so the exponentials of a large vocabulary stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.integer]
Numbers = npt.NDArray[np.float64]

_BLOCK_BYTES = 2 * 1024**2


class Gap(NamedTuple):
    """Difference between a prediction and the reference's; each field is an array of shape (rows,)."""

    kl: Numbers  # Kullback-Leibler divergence from the reference, in nats
    same_top: npt.NDArray[np.bool_]  # whether both have the same most likely token
    delta_p: Numbers  # probability of the token that actually follows, minus the reference's


def surprise(logits: Rows, targets: Tokens) -> Numbers:
    """Return ``-log p(target)`` in nats for logits of shape (rows, n_vocab).

    ``-log softmax(x)[t] = log(sum(exp(x - max x))) + max x - x[t]``, with exponentials in single precision and their sum in
    double precision, as in llama-perplexity.

    Examples
    --------
    >>> surprise(np.array([[0.0, 0.0]], dtype=np.float32), np.array([1])).round(4)
    array([0.6931])
    """
    result = np.empty(len(logits))
    for rows in _blocks(logits):
        result[rows] = _log_total(logits[rows]) - logits[rows][np.arange(len(logits[rows])), targets[rows]]
    return result


def log_softmax(logits: Rows) -> Rows:
    """Return log probabilities, in the same shape and type."""
    result = np.empty_like(logits)
    for rows in _blocks(logits):
        np.subtract(logits[rows], _log_total(logits[rows])[:, None], out=result[rows], casting="same_kind")
    return result


def divergence(reference: Rows, logits: Rows, targets: Tokens) -> Gap:
    """Compare a model's raw logits with the reference's log probabilities, both of shape (rows, n_vocab).

    ``KL(P || Q) = sum(P * (log P - log Q))``, where P is the reference; tokens with probability 0 in the reference count 0.
    """
    kl, same, delta = np.empty(len(logits)), np.empty(len(logits), dtype=np.bool_), np.empty(len(logits))
    for rows in _blocks(logits):
        log_p, log_q = reference[rows], log_softmax(logits[rows])
        p = np.exp(log_p)
        with np.errstate(invalid="ignore"):
            kl[rows] = np.where(p > 0, p * (log_p - log_q), 0).sum(axis=1, dtype=np.float64)
        same[rows] = log_p.argmax(axis=1) == log_q.argmax(axis=1)
        picked = np.arange(len(log_p)), targets[rows]
        delta[rows] = np.exp(log_q[picked].astype(float)) - np.exp(log_p[picked].astype(float))
    return Gap(kl, same, delta)


def _log_total(logits: Rows) -> Numbers:
    """Return the logarithm of each row's sum of exponentials."""
    highest = logits.max(axis=1, keepdims=True)
    total: Numbers = np.log(np.exp(logits - highest).sum(axis=1, dtype=np.float64)) + highest[:, 0]
    return total


def _blocks(logits: Rows) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // max(1, logits.shape[1] * logits.itemsize))
    for start in range(0, len(logits), step):
        yield slice(start, min(start + step, len(logits)))
