"""Would this file abort the process in llama.cpp? One check for each kind of dangerous value.

::

    hparams           hyperparameters
    tensors           names, shapes and types
    vocabulary        tokens, scores, merges
    architectures     what each architecture needs
"""

from __future__ import annotations

from labkit.gguf_file.header import Header
from labkit.gguf_file.preflight.hparams import HPARAM_CHECKS
from labkit.gguf_file.preflight.tensors import check_tensors
from labkit.gguf_file.preflight.vocabulary import check_vocabulary


def preflight(header: Header, *, vocabulary: bool = True) -> tuple[str, ...]:
    """Refuse a file that would abort the process when llama.cpp loads it or generates; return all warnings.

    ``vocabulary=False`` skips the tokens, which a model on a server would download again.

    Notes
    -----
    Most of the time is spent on the vocabulary: each string is read once, about 0.3 µs each, 15 ms for 49,152.
    The checks were found by loading mutated files in child processes (``tests/gguf_mutants.py``). A new architecture may
    have other problems: `labkit.load_check.facts` tries such a file in a child process.
    """
    checks = [*HPARAM_CHECKS, check_tensors, *([check_vocabulary] if vocabulary else [])]
    sentences = [sentence for check in checks for sentence in check(header)]
    return (*header.warnings, *sentences)
