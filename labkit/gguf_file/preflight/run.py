"""Would this file abort the process? llama.cpp does so on some files that parse without error.

Each check returns warnings, or raises on a value that would abort or hang the process (an assertion, a division by zero,
an exception that no C caller can catch, an endless loop). Files that llama.cpp refuses itself, with a reason, are left
to llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

from labkit.gguf_file.header import Header
from labkit.gguf_file.preflight.hparams import (
    check_attention,
    check_context,
    check_experts,
    check_kind,
    check_layers,
    check_numbers,
    check_output_length,
    check_rope,
    check_shapes,
)
from labkit.gguf_file.preflight.latent_attention import check_latent
from labkit.gguf_file.preflight.tensors import check_tensors
from labkit.gguf_file.preflight.vocabulary import check_vocabulary

_CHECKS: tuple[Callable[[Header], tuple[str, ...]], ...] = (
    check_kind,
    check_layers,
    check_output_length,
    check_experts,
    check_numbers,
    check_rope,
    check_attention,
    check_latent,
    check_context,
    check_shapes,
    check_tensors,
)


def preflight(header: Header, *, vocabulary: bool = True) -> tuple[str, ...]:
    """Refuse a file that would abort the process when llama.cpp loads it or generates; return all warnings.

    ``vocabulary=False`` skips the tokens, which a model on a server would download again.

    Notes
    -----
    Most of the time is spent on the vocabulary: each string is read once, about 0.3 µs each, 15 ms for 49,152.
    The checks were found by loading mutated files in child processes (``tests/gguf_mutants.py``). A new architecture may
    have other problems: `labkit.engine.load_facts` tries such a file in a child process.
    """
    checks = (*_CHECKS, check_vocabulary) if vocabulary else _CHECKS
    sentences = [sentence for check in checks for sentence in check(header)]
    return (*header.warnings, *sentences)
