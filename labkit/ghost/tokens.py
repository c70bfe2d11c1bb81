"""A real tokenizer for any vocabulary size, made from the bundled model's.

Its byte-pair tokens are in merge order: 17 control tokens, 235 single bytes, then the merges. So a *prefix* is the tokenizer
that the same training gives for a smaller vocabulary, with every merge of its tokens; this is used for Llama-2's 32,000. A
larger vocabulary is *padded* with words that no merge produces: they need memory like real tokens, but no text is tokenized
to them, and if a model generates one it reads " unused50123".
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from labkit.errors import ArgumentError
from labkit.gguf_file import read_header
from labkit.models import bundled_model_path

_NORMAL, _CONTROL = 1, 3  # LLAMA_TOKEN_TYPE_NORMAL, _CONTROL
_TOKENS, _KINDS, _MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"


def tokenizer_keys(n_vocab: int) -> dict[str, Any]:
    """Return the metadata of a tokenizer with exactly ``n_vocab`` tokens, including the chat template."""
    keys = dict(_bundled())
    tokens, kinds, merges = keys[_TOKENS], keys[_KINDS], keys[_MERGES]
    least = len(tokens) - len(merges)
    if n_vocab < least:
        raise ArgumentError(f"n_vocab is {n_vocab:,}: the tokenizer needs {least} tokens or more")
    extra = [f"Ġunused{index}" for index in range(len(tokens), n_vocab)]
    keys[_TOKENS] = [*tokens[:n_vocab], *extra]
    keys[_KINDS] = np.concatenate([kinds[:n_vocab], np.full(len(extra), _NORMAL, np.int32)])
    keys[_MERGES] = merges[: n_vocab - least]
    if not keys[_MERGES]:
        del keys[_MERGES]
    return keys


def control_tokens() -> int:
    """Return the number of control tokens at the start of the vocabulary."""
    return int(np.argmin(_bundled()[_KINDS] == _CONTROL))


@functools.lru_cache(maxsize=1)
def _bundled() -> dict[str, Any]:
    """Read the bundled model's tokenizer: 50 ms, once per process."""
    metadata = read_header(bundled_model_path()).metadata
    keys = {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
    keys[_TOKENS], keys[_MERGES] = list(keys[_TOKENS]), list(keys[_MERGES])
    keys[_KINDS] = np.array(list(keys[_KINDS]), np.int32)
    return keys
