"""measure_memory: the actual memory of a load and a full context, in a subprocess."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from pathlib import Path
from typing import Any

from labkit.checks import check_int, check_json, check_number
from labkit.children import ask_child, explain
from labkit.errors import LabkitError, ModelLoadError
from labkit.load_check.facts import sound_file
from labkit.models import resolve_model
from labkit.records import Record
from labkit.system import check_engine

_CHILD = Path(__file__).with_name("measure_child.py")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MeasuredMemory(Record):
    """RSS of a process, as the system reports it.

    Attributes
    ----------
    base_bytes : int
        After importing labkit's engine, before the model.
    loaded_bytes : int
        After `load_model`.
    peak_bytes : int
        Peak RSS, with the context full.
    anonymous_bytes, file_bytes : int or None
        At the end: anonymous memory, and pages of files; None where the system does not distinguish them.
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
    """Load a model in a subprocess, fill its context with random tokens, and measure the memory.

    Parameters
    ----------
    model_path, n_ctx, **options
        As for `load_model`; values must be JSON-serializable (no callbacks).
    seed : int
        Seed of the random tokens.
    limit_s : float
        Time limit of the process, seconds.

    Raises
    ------
    ModelNotFoundError
        No such file or name.
    ModelLoadError
        The model could not be loaded or computed; the message comes from the subprocess.
    LabkitError
        The process died or exceeded the time limit, possibly from lack of memory.

    Notes
    -----
    The peak is Linux's high-water mark (VmHWM); on other systems the peak that the system records, or else the RSS at the
    end.

    Examples
    --------
    >>> measured = measure_memory(n_ctx=256)
    >>> measured.base_bytes < measured.loaded_bytes <= measured.peak_bytes, measured.n_tokens
    (True, 256)
    """
    check_engine()
    check_int("n_ctx", n_ctx, 0, 2**31 - 1)
    check_int("seed", seed, 0, 2**63)
    check_number("limit_s", limit_s, 0, threading.TIMEOUT_MAX)
    plain = check_json("options", options)
    path = resolve_model(model_path)
    with contextlib.suppress(LabkitError):  # the child reports it
        sound_file(path)  # reading an unknown file's header takes some MB, once
    request = {"model": str(path), "n_ctx": n_ctx, "seed": seed, "options": plain}
    with explain("the measurement", LabkitError, "choose a smaller n_ctx", died="does the model fit in RAM?"):
        answer = ask_child(_CHILD, request, limit_s)
    if "error" in answer:
        raise ModelLoadError(answer["error"])
    return MeasuredMemory(**answer)
