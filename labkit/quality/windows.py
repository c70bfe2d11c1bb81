"""A text's tokens, cut into windows exactly as in llama-perplexity.

References
----------
llama.cpp ``tools/perplexity/perplexity.cpp``: ``perplexity`` (adjacent windows), ``perplexity_v2`` (strided).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from importlib import resources

import numpy as np

from labkit.checks import check_int
from labkit.engine.model import Model, check_model
from labkit.engine.native import C
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.progress import Progress
from labkit.quality.scoring import Window

SMALLEST = 8  # tokens per window: a few for context, a few to score


@functools.cache
def evaluation_text() -> str:
    """Return the lab's evaluation text: about 4,000 tokens of varied English prose, written for the lab.

    Examples
    --------
    >>> len(evaluation_text().split()) > 3000
    True
    """
    return resources.files("labkit").joinpath("data/evaluation.txt").read_text(encoding="utf-8")


def check_size(n_ctx: int, stride: int | None) -> tuple[int, int | None]:
    """Return the window's size and stride, checked."""
    size = check_int("n_ctx", n_ctx, SMALLEST, 2**24)
    return size, None if stride is None else check_int("stride", stride, 1, size - 1, hint="; it must be below n_ctx")


def text_windows(model: Model, text: str, n_ctx: int, stride: int | None = None) -> list[Window]:
    """Cut a text into a model's windows; as llama-perplexity, refuse one that is shorter than two windows."""
    if not isinstance(text, str):
        raise ArgumentTypeError(f"text must be the text itself, not {type(text).__name__}: for a file, pass open(…).read()")
    with check_model(model).vocabulary() as tokenizer:
        vocab = tokenizer.vocab
        tokens = tokenizer.tokenize(text, add_special=True)
        if C.llama_vocab_get_add_eos(vocab) and tokens and tokens[-1] == C.llama_vocab_eos(vocab):
            del tokens[-1]
        bos = C.llama_vocab_bos(vocab) if C.llama_vocab_get_add_bos(vocab) else None
    if len(tokens) < 2 * n_ctx:
        fitting = 1 << max(len(tokens) // 2, 1).bit_length() - 1
        advice = f"or n_ctx={fitting}" if fitting >= SMALLEST else f"of at least {2 * SMALLEST} tokens"
        raise ArgumentError(
            f"the text has {len(tokens):,} token{'s' * (len(tokens) != 1)}, but n_ctx={n_ctx:,} needs at least "
            f"{2 * n_ctx:,}: give a longer text, {advice}"
        )
    return cut_windows(tokens, n_ctx, stride, bos)


def cut_windows(tokens: Sequence[int], n_ctx: int, stride: int | None = None, bos: int | None = None) -> list[Window]:
    """Cut tokens into windows of ``n_ctx``, without the last token of each, whose successor is in the next window.

    Without a stride, windows are adjacent and tokens ``n_ctx // 2 + 1`` to ``n_ctx - 1`` of each are scored, one less than
    half of them: the first half is the minimum context of every prediction. A stride moves the window by that many tokens,
    and scores that many at its end.

    ``bos`` replaces each window's first token, if the model begins texts with it; not with a stride, where llama-perplexity
    inserts it only after the computation.

    Examples
    --------
    >>> [(w.tokens.tolist(), w.targets.tolist()) for w in cut_windows(range(1, 17), 8, bos=0)]
    [([0, 2, 3, 4, 5, 6, 7], [6, 7, 8]), ([0, 10, 11, 12, 13, 14, 15], [14, 15, 16])]
    >>> [(w.tokens.tolist(), w.targets.tolist()) for w in cut_windows(range(1, 14), 8, stride=3)]
    [([1, 2, 3, 4, 5, 6, 7], [6, 7, 8]), ([4, 5, 6, 7, 8, 9, 10], [9, 10, 11])]
    """
    every = np.asarray(tokens, dtype=np.int32)
    if stride is None:
        step, count, n_scored = n_ctx, len(every) // n_ctx, n_ctx - n_ctx // 2 - 1
    else:
        step, count, n_scored = stride, -(-(len(every) - n_ctx) // stride), stride
    windows = []
    for start in range(0, count * step, step):
        chunk = every[start : start + n_ctx].copy()
        if bos is not None and stride is None:
            chunk[0] = bos
        windows.append(Window(chunk[:-1], chunk[n_ctx - n_scored :]))
    return windows


def counted(windows: Sequence[Window], report: Progress) -> Iterator[Window]:
    """Yield the windows, and report each when the next is requested."""
    for index, window in enumerate(windows):
        yield window
        report(index + 1, len(windows))
