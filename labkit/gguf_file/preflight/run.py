"""Would the engine survive this file? llama.cpp ends the whole process on some files that parse well.

Each check either returns sentences about what is odd, or raises on what would end the process (an assertion, a division
by zero, an exception that no C caller can catch, an endless loop). What llama.cpp refuses by itself, with a reason, is
left to it.
"""

from __future__ import annotations

from collections.abc import Callable

from labkit.gguf_file.header import Header
from labkit.gguf_file.preflight.hparams import (
    check_attention,
    check_context,
    check_experts,
    check_layers,
    check_numbers,
    check_rope,
    check_shapes,
)
from labkit.gguf_file.preflight.latent_attention import check_latent
from labkit.gguf_file.preflight.tensors import check_tensors
from labkit.gguf_file.preflight.vocabulary import check_vocabulary

__all__ = ["preflight"]

_CHECKS: tuple[Callable[[Header], tuple[str, ...]], ...] = (
    check_layers,
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
    """Refuse what would end the process in the engine, and return what is odd, one sentence each.

    Parameters
    ----------
    header : Header
        From `read_header`.
    vocabulary : bool
        Whether to look at every token too; from a server that means to fetch them again.

    Returns
    -------
    tuple of str
        The header's own warnings, then those of the checks.

    Raises
    ------
    GGUFError
        When loading the file, or generating with it, would end the process; names the key or the tensor.

    Notes
    -----
    The time goes into the vocabulary, every string of which is read once: about 0.3 µs each, 15 ms for 49,152.
    Found by loading mutated files in child processes (``tests/gguf_mutants.py``). An architecture of its own kind may hold
    traps of its own kind: a dry run in a child process (``labkit.memory.dry_run``) catches those.
    """
    checks = (*_CHECKS, check_vocabulary) if vocabulary else _CHECKS
    sentences = [sentence for check in checks for sentence in check(header)]
    return (*header.warnings, *sentences)
