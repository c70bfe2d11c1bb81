"""llama.cpp's own memory figures for a model, from a dry run in a subprocess that allocates nothing."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit import __version__
from labkit.cache import file_identity, recall, remember
from labkit.children import ChildEndedError, ask_child
from labkit.errors import ModelLoadError
from labkit.kv_cache.size import cache_type
from labkit.records import Record
from labkit.system import engine_build

__all__ = ["Simulation", "simulate"]

_CHILD = Path(__file__).with_name("dry_run_child.py")
_MIB = 1024**2
_SIZES = {
    "cache": re.compile(r"^llama_kv_cache[a-z_]*: size = +([\d.]+) MiB", re.MULTILINE),
    "state": re.compile(r" RS buffer size = +([\d.]+) MiB"),
    "compute": re.compile(r" compute buffer size = +([\d.]+) MiB"),
    "device compute": re.compile(r": +(?!CPU|AMX|\w+_Host )\S+ compute buffer size = +([\d.]+) MiB"),
    "output": re.compile(r" output buffer size = +([\d.]+) MiB"),
}
_HOST = re.compile(r"CPU|AMX|\w+_Host$")  # buffer types in RAM; a GPU's "CUDA_Host" is pinned RAM


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Simulation(Record):
    """Sizes of llama.cpp's buffers, from a dry run.

    Attributes
    ----------
    weights_bytes : int or None
        All tensors as stored in its buffers; None where this build does not report it.
    kv_cache_bytes, recurrent_state_bytes, compute_buffer_bytes, output_buffer_bytes : int
        The other buffers.
    runtime_bytes : int
        RSS of a process with labkit's engine, the model's vocabulary and its graph, but without buffers; measured in the
        dry run.
    is_exact : bool
        Exact to the byte; else to 0.01 MiB, as in the log.
    device_compute_bytes : int
        The part of ``compute_buffer_bytes`` on GPUs. It is more than 0 even with ``n_gpu_layers=0``: a GPU also computes
        prompts for the layers on the CPU.
    log : str
        llama.cpp's log.
    """

    weights_bytes: int | None
    kv_cache_bytes: int
    recurrent_state_bytes: int
    compute_buffer_bytes: int
    output_buffer_bytes: int
    runtime_bytes: int
    is_exact: bool
    device_compute_bytes: int = 0
    log: str = dataclasses.field(repr=False, default="")


def simulate(
    model: Path,
    *,
    n_ctx: int,
    n_batch: int,
    n_ubatch: int,
    n_gpu_layers: int = 0,
    n_seq: int = 1,
    n_outputs_max: int = 1,
    type_k: str = "f16",
    type_v: str = "f16",
    flash_attn: bool = False,
    swa_full: bool = False,
    kv_unified: bool = False,
    limit_s: float = 60.0,
) -> Simulation:
    """Run llama.cpp's memory layout of a model without allocating it.

    Parameters
    ----------
    n_gpu_layers : int
        Layers on this machine's GPUs; -1 is all.
    type_k, type_v : str
        Types of the cache.
    limit_s : float
        Time limit of the process, seconds.

    Raises
    ------
    ModelLoadError
        llama.cpp refused the model, aborted the process or exceeded the time limit; the message says which.

    Notes
    -----
    The result is cached for the same file, settings and versions. The dry run assumes that the file is read, not mapped.
    """
    settings = {
        "n_gpu_layers": n_gpu_layers,
        "n_ctx": n_ctx,
        "n_batch": n_batch,
        "n_ubatch": n_ubatch,
        "n_seq_max": n_seq,
        "n_outputs_max": n_outputs_max,
        "type_k": cache_type("type_k", type_k).id,
        "type_v": cache_type("type_v", type_v).id,
        "flash_attn_type": int(flash_attn),
        "swa_full": swa_full,
        "kv_unified": kv_unified,
        "offload_kqv": True,
    }
    words = (*file_identity(model), json.dumps(settings), __version__, sys.version, *_engine())
    answer = recall("simulated", *words)
    if not _is_answer(answer):
        answer = _ask(model, settings, limit_s)
        remember("simulated", answer, *words)
    return _read(answer)


@functools.lru_cache(maxsize=1)
def _engine() -> tuple[str, ...]:
    """Return llama-cpp-python's version and the GPUs that it can use."""
    build = engine_build()
    return build.version, *(gpu.name for gpu in build.gpus)


def _ask(model: Path, settings: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """Run the child; return its answer."""
    try:
        answer = ask_child(_CHILD, {**settings, "model": str(model.resolve())}, limit_s)
    except subprocess.TimeoutExpired:
        raise ModelLoadError(
            f"llama.cpp's dry run of {model.name} exceeded {limit_s:g} s and was stopped: use method='formula'"
        ) from None
    except OSError as error:
        raise ModelLoadError(f"the dry run's process could not be started ({error}): use method='formula'") from error
    except ChildEndedError as error:
        raise ModelLoadError(
            f"llama.cpp's dry run of {model.name} aborted its process ({error}): use method='formula'"
        ) from None
    if answer["error"]:
        reason = " ".join(str(answer["error"]).split()).partition(": ")
        raise ModelLoadError(f"llama.cpp cannot lay {model.name} out: {reason[2] or reason[0]}")
    return answer


def _is_answer(answer: Any) -> bool:
    return isinstance(answer, dict) and {"log", "resident_before_bytes", "resident_after_bytes", "buffers"} <= set(answer)


def _read(answer: Mapping[str, Any]) -> Simulation:
    log = str(answer["log"])
    sizes = {name: round(sum(map(float, pattern.findall(log))) * _MIB) for name, pattern in _SIZES.items()}
    weights: int | None = None
    state = sizes["state"]
    is_exact = answer["buffers"] is not None
    if is_exact:
        weights, context, sizes["compute"] = (sum(row[column] for row in answer["buffers"]) for column in (1, 2, 3))
        if not sizes["cache"]:
            state = context
        sizes["cache"] = context - state
        if not _SIZES["state"].search(log):
            state = 0
        sizes["device compute"] = sum(row[3] for row in answer["buffers"] if not _HOST.match(row[0]))
    return Simulation(
        weights_bytes=weights,
        kv_cache_bytes=sizes["cache"],
        recurrent_state_bytes=state,
        compute_buffer_bytes=sizes["compute"],
        output_buffer_bytes=sizes["output"],
        runtime_bytes=int(answer["resident_after_bytes"]) - state,
        is_exact=is_exact,
        device_compute_bytes=sizes["device compute"],
        log=log,
    )
