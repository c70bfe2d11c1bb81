"""llama.cpp's samplers in NumPy: operations on logits, and the random draw.

Each step maps the next token's logits, shape ``(n_vocab,)``, to new logits: −inf for a dropped token. llama.cpp's order is
penalties, DRY, top-k, typical, top-p, min-p, XTC, temperature, draw; `choose_token` applies those that are on by default.

References
----------
llama.cpp ``src/llama-sampler.cpp`` (each ``llama_sampler_…_apply``), ``common/sampling.cpp`` (the order).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit.checks import check_int, check_number
from labkit.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Logits = NDArray[np.float32]


def softmax(logits: ArrayLike) -> NDArray[np.float32]:
    """Return the probabilities of logits: ``exp(logit)``, divided by their sum.

    Parameters
    ----------
    logits : array of shape (n_vocab,)
        −inf is a dropped token.

    Returns
    -------
    array of float32, shape (n_vocab,)

    Raises
    ------
    ArgumentError, ArgumentTypeError
        When they are not a row of numbers, contain NaN or +inf, or are all −inf.

    Examples
    --------
    >>> softmax([2.0, 1.0, 0.0]).round(3).tolist()
    [0.6650000214576721, 0.24500000476837158, 0.09000000357627869]
    """
    checked = _check(logits)
    weights = np.exp(checked - checked.max())
    return np.asarray(weights / weights.sum(dtype=np.float32), dtype=np.float32)


def apply_temperature(logits: ArrayLike, temperature: float) -> Logits:
    """Divide by the temperature; 0 keeps only the most likely token.

    Examples
    --------
    >>> apply_temperature([2.0, 1.0, 0.0], 0.5).tolist()
    [4.0, 2.0, 0.0]
    >>> apply_temperature([2.0, 1.0, 0.0], 0).tolist()
    [2.0, -inf, -inf]
    """
    checked = _check(logits)
    if check_number("temperature", temperature, 0.0, np.inf) == 0.0:
        return keep_top_k(checked, 1)
    if temperature < 1e-3:
        checked = checked - checked.max()  # then a very low temperature overflows to −inf
    with np.errstate(over="ignore"):
        return np.asarray(checked / np.float32(temperature), dtype=np.float32)


def keep_top_k(logits: ArrayLike, k: int) -> Logits:
    """Keep the ``k`` most likely tokens; 0 keeps all.

    Examples
    --------
    >>> keep_top_k([2.0, 1.0, 0.0], 2).tolist()
    [2.0, 1.0, -inf]
    """
    checked = _check(logits)
    k = check_int("top_k", k, 0, 2**31 - 1, hint=" (0 keeps all)")
    return checked if k == 0 else _keep(checked, _ranked(checked)[:k])


def keep_top_p(logits: ArrayLike, p: float) -> Logits:
    """Keep the smallest set of most likely tokens with a total probability of at least ``p``; 1 keeps all.

    Examples
    --------
    >>> keep_top_p([2.0, 1.0, 0.0], 0.7).tolist()
    [2.0, 1.0, -inf]
    """
    checked = _check(logits)
    if check_number("top_p", p, 0.0, 1.0) == 1.0:
        return checked
    ranked = _ranked(checked)
    reached = np.cumsum(softmax(checked)[ranked], dtype=np.float32) >= np.float32(p)
    return _keep(checked, ranked[: int(reached.argmax()) + 1 if reached.any() else len(ranked)])


def keep_min_p(logits: ArrayLike, p: float) -> Logits:
    """Keep the tokens that are at least ``p`` times as likely as the most likely one; 0 keeps all.

    Examples
    --------
    >>> keep_min_p([2.0, 1.0, 0.0], 0.2).tolist()
    [2.0, 1.0, -inf]
    """
    checked = _check(logits)
    if check_number("min_p", p, 0.0, 1.0) == 0.0:
        return checked
    threshold = checked.max() + np.log(np.float32(p))
    return np.where(checked >= threshold, checked, np.float32(-np.inf))


def keep_typical(logits: ArrayLike, p: float) -> Logits:
    """Keep the tokens whose surprise is nearest to the expected one, until they have more than ``p`` together; 1 keeps all.

    A token's surprise is −ln(probability); its expected value is the entropy.

    References
    ----------
    Meister et al., "Locally Typical Sampling", TACL 2023.

    Examples
    --------
    >>> keep_typical([2.0, 1.0, 0.0], 0.5).tolist()
    [2.0, -inf, -inf]
    """
    checked = _check(logits)
    if check_number("typical_p", p, 0.0, 1.0) == 1.0:
        return checked
    kept = _ranked(checked)
    probabilities = softmax(checked)[kept].astype(np.float64)
    kept, probabilities = kept[probabilities > 0], probabilities[probabilities > 0]
    surprise = -np.log(probabilities)
    order = np.argsort(np.abs(surprise - (probabilities * surprise).sum()), kind="stable")
    above = np.cumsum(probabilities[order]) > p
    return _keep(checked, kept[order[: int(above.argmax()) + 1 if above.any() else len(order)]])


def drop_top_choices(logits: ArrayLike, threshold: float = 0.1) -> Logits:
    """Drop all tokens with a probability of at least ``threshold``, except the least likely of them (XTC).

    llama.cpp does that at random, with ``xtc_probability``.

    References
    ----------
    p-e-w, "Exclude Top Choices (XTC)", text-generation-webui, 2024.

    Examples
    --------
    >>> drop_top_choices([2.0, 1.0, 0.0], 0.2).tolist()
    [-inf, 1.0, 0.0]
    """
    checked = _check(logits)
    ranked = _ranked(checked)
    n_above = int((softmax(checked)[ranked] >= np.float32(check_number("threshold", threshold, 0.0, 1.0))).sum())
    return checked if n_above < 2 or threshold > 0.5 else _keep(checked, ranked[n_above - 1 :])


def apply_penalties(
    logits: ArrayLike,
    tokens: Sequence[int],
    *,
    repeat_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
) -> Logits:
    """Lower the logits of the last ``tokens``: divide by the repeat penalty, subtract the others.

    A negative logit is multiplied by the repeat penalty. The frequency penalty is subtracted for each occurrence, the
    presence penalty once.

    References
    ----------
    Keskar et al., "CTRL", 2019 (repeat); OpenAI's API (frequency, presence).

    Examples
    --------
    >>> apply_penalties([4.0, 1.0, -1.0], [0, 0, 2], repeat_penalty=2.0, frequency_penalty=0.5).tolist()
    [1.0, 1.0, -2.5]
    """
    changed: Logits = _check(logits).copy()
    for token, count in Counter(tokens).items():
        logit = float(changed[check_int("a token", token, 0, len(changed) - 1)])
        logit = logit * repeat_penalty if logit <= 0 else logit / repeat_penalty
        changed[token] = logit - count * frequency_penalty - presence_penalty
    return changed


def apply_dry(
    logits: ArrayLike,
    tokens: Sequence[int],
    *,
    multiplier: float = 0.8,
    base: float = 1.75,
    allowed_length: int = 2,
    breakers: Collection[int] = (),
) -> Logits:
    """Lower the logit of each token that would continue a repetition in ``tokens``, the more the longer it is (DRY).

    A repetition of ``n`` tokens costs the next one ``multiplier * base ** (n - allowed_length)``; it never reaches over a
    token of ``breakers``.

    References
    ----------
    p-e-w, "DRY: a modern repetition penalty", text-generation-webui, 2024.

    Examples
    --------
    "1 2 3 … 1 2" has two tokens again, so 3 gets lower:

    >>> apply_dry([0.0, 0.0, 0.0, 0.0], [1, 2, 3, 0, 1, 2]).round(3).tolist()
    [0.0, 0.0, 0.0, -0.800000011920929]
    """
    changed: Logits = _check(logits).copy()
    tail = list(tokens)
    limit = next((n for n, token in enumerate(reversed(tail)) if token in breakers), len(tail))
    longest: dict[int, int] = {}
    for end in range(len(tail) - 1):
        length = 0
        while length < min(end + 1, limit) and tail[end - length] == tail[-1 - length]:
            length += 1
        if length >= allowed_length:
            longest[tail[end + 1]] = max(length, longest.get(tail[end + 1], 0))
    for token in longest.keys() - set(breakers):
        changed[token] -= multiplier * base ** (longest[token] - allowed_length)
    return changed


def shape_logits(
    logits: ArrayLike, *, temperature: float = 0.7, top_k: int = 40, top_p: float = 0.95, min_p: float = 0.05
) -> Logits:
    """Apply all four in llama.cpp's order: top-k, top-p, min-p, temperature; the defaults are those of `generate_text`."""
    kept = keep_min_p(keep_top_p(keep_top_k(logits, top_k), top_p), min_p)
    return apply_temperature(kept, temperature)


def entropy_bits(logits: ArrayLike) -> float:
    """Return the entropy of the distribution, in bits: 0 is certainty, log2(n) an even choice among n tokens.

    Examples
    --------
    >>> entropy_bits([1.0, 1.0, 1.0, 1.0])
    2.0
    """
    kept = softmax(logits).astype(np.float64)
    kept = kept[kept > 0]
    return float(max(0.0, -(kept * np.log2(kept)).sum()))


def draw_token(logits: ArrayLike, seed: int, *, ranked: bool = True) -> int:
    """Draw a token according to its probability, with llama.cpp's random numbers.

    A random number between 0 and 1 selects the token in whose interval it falls; each token's interval is as long as its
    probability.

    Parameters
    ----------
    seed : int
        0 to 4,294,967,294, as in `generate_text`.
    ranked : bool
        Whether the intervals are in the order of the logits, as after top-k and top-p, or in the order of token IDs.

    Notes
    -----
    llama.cpp uses C++'s ``std::mt19937`` with ``std::uniform_real_distribution<double>``. The generator is the same
    everywhere (and in NumPy's ``RandomState``); the conversion of 2 × 32 bits to a double follows GCC's library, so it may
    differ on other systems.
    """
    checked = _check(logits)
    probabilities = softmax(checked)
    order = _ranked(checked) if ranked else np.flatnonzero(np.isfinite(checked))
    generator = np.random.RandomState(check_int("seed", seed, 0, 2**32 - 1))
    low, high = (int(word) for word in generator.randint(0, 2**32, size=2, dtype=np.uint32))
    number = (low + high * 2.0**32) / 2.0**64
    weights = np.exp(checked[order] - checked.max()).astype(np.float64)
    place = int(np.searchsorted(np.cumsum(weights), number * weights.sum(), side="left"))
    chosen = int(order[min(place, len(order) - 1)])
    return chosen if probabilities[chosen] > 0 else int(order[0])


def choose_token(
    logits: ArrayLike, seed: int, *, temperature: float = 0.7, top_k: int = 40, top_p: float = 0.95, min_p: float = 0.05
) -> int:
    """Choose the next token as `generate_text` with the same arguments."""
    checked = _check(logits)
    if check_number("temperature", temperature, 0.0, np.inf) == 0.0:
        return int(checked.argmax())
    shaped = shape_logits(checked, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return draw_token(shaped, seed, ranked=0 < top_k < len(checked) or top_p < 1.0)


def _check(logits: ArrayLike) -> Logits:
    try:
        checked: Logits = np.asarray(logits, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError("logits must be a row of numbers") from error
    if checked.ndim != 1 or not checked.size:
        raise ArgumentError(f"logits must be one row of numbers, not an array of shape {checked.shape}")
    if np.isnan(checked).any() or checked.max() == np.inf:
        raise ArgumentError("logits must be numbers or -inf, but some are NaN or inf")
    if checked.max() == -np.inf:
        raise ArgumentError("every token was dropped: at least one logit must be a number")
    return checked


def _ranked(logits: Logits) -> NDArray[np.intp]:
    """Return the tokens that were not dropped, most likely first; ties in the order of token IDs."""
    kept = np.flatnonzero(np.isfinite(logits))
    return kept[np.argsort(-logits[kept], kind="stable")]


def _keep(logits: Logits, tokens: NDArray[np.intp]) -> Logits:
    kept = np.full_like(logits, -np.inf)
    kept[tokens] = logits[tokens]
    return kept
