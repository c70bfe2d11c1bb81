"""measure_memory: what a load and a full context really take, in a process of their own."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

from labkit.children import ChildEndedError, ask_child
from labkit.errors import LabkitError, ModelLoadError
from labkit.models import resolve_model
from labkit.records import Record

__all__ = ["MeasuredMemory", "measure_memory"]

_CHILD = Path(__file__).with_name("measure_child.py")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MeasuredMemory(Record):
    """Resident memory of a process, as the system counts it.

    Attributes
    ----------
    base_bytes : int
        After importing labkit's engine, before the model.
    loaded_bytes : int
        After `load_model`.
    peak_bytes : int
        The most that there was, the context filled.
    anonymous_bytes, file_bytes : int or None
        At the end: memory of its own, and pages of files; None where the system does not tell them apart.
    n_tokens : int
        Tokens that filled the context.
    """

    base_bytes: int
    loaded_bytes: int
    peak_bytes: int
    anonymous_bytes: int | None
    file_bytes: int | None
    n_tokens: int


def measure_memory(
    model_path: str | Path | None = None, n_ctx: int = 2048, *, seed: int = 0, limit_s: float = 1800.0, **options: Any
) -> MeasuredMemory:
    """Load a model in a process of its own, fill its context with random tokens, and read what that took.

    Parameters
    ----------
    model_path, n_ctx, **options
        As for `load_model`; what they hold must be JSON (no callbacks).
    seed : int
        Of the random tokens.
    limit_s : float
        After so many seconds the process is ended.

    Raises
    ------
    ModelNotFoundError
        No such file or name.
    ModelLoadError
        The model could not be loaded or computed; the message is the child's.
    LabkitError
        The process ended by itself, or took too long: too little memory, perhaps.

    Notes
    -----
    The peak is Linux's high-water mark (VmHWM); elsewhere the process's own peak where the system keeps one, or else what is
    resident at the end.

    Examples
    --------
    >>> measured = measure_memory(n_ctx=256)
    >>> measured.base_bytes < measured.loaded_bytes <= measured.peak_bytes, measured.n_tokens
    (True, 256)
    """
    request = {"model": str(resolve_model(model_path)), "n_ctx": n_ctx, "seed": seed, "options": options}
    try:
        answer = ask_child(_CHILD, request, limit_s)
    except subprocess.TimeoutExpired:
        raise LabkitError(f"measuring took over {limit_s:g} s and was ended: choose a smaller n_ctx") from None
    except OSError as error:
        raise LabkitError(f"the process that measures could not be started ({error})") from error
    except ChildEndedError as error:
        raise LabkitError(f"the process that measures ended by itself ({error}): does the model fit in RAM?") from None
    if "error" in answer:
        raise ModelLoadError(answer["error"])
    return MeasuredMemory(**answer)
