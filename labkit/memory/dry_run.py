"""llama.cpp's own memory figures for a model, from a dry run in a subprocess that allocates nothing."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit import __version__
from labkit.cache import file_identity, recall, remember
from labkit.children import explain
from labkit.errors import ModelLoadError
from labkit.load_check.dry_run import lay_out
from labkit.system import engine_build

_MIB = 1024**2
_LIMIT_S = 60.0
_SIZES = {
    "cache": re.compile(r"^llama_kv_cache[a-z_]*: size = +([\d.]+) MiB", re.MULTILINE),
    "state": re.compile(r" RS buffer size = +([\d.]+) MiB"),
    "compute": re.compile(r" compute buffer size = +([\d.]+) MiB"),
    "device compute": re.compile(r": +(?!CPU|AMX|\w+_Host )\S+ compute buffer size = +([\d.]+) MiB"),
}
_HOST = re.compile(r"CPU|AMX|\w+_Host$")  # buffer types in RAM; a GPU's "CUDA_Host" is pinned RAM


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Sizes of llama.cpp's buffers, from a dry run: exact to the byte, or to 0.01 MiB where only the log has them."""

    kv_cache_bytes: int
    recurrent_state_bytes: int
    compute_buffer_bytes: int
    runtime_bytes: int  # RSS of the dry run: labkit's engine, the vocabulary and the graph, without buffers
    # On GPUs, a part of compute_buffer_bytes. More than 0 even with n_gpu_layers=0: a GPU also computes prompts for the
    # layers on the CPU.
    device_compute_bytes: int = 0


def simulate(model: Path, *, n_gpu_layers: int = 0, **context: int) -> Simulation:
    """Run llama.cpp's memory layout of a model without allocating it; ``context`` are context parameters, by name.

    Notes
    -----
    The result is cached for the same file, settings and versions. The dry run assumes that the file is read, not mapped.
    """
    settings = {"n_gpu_layers": n_gpu_layers, "contexts": [context]}
    words = (*file_identity(model), json.dumps(settings), __version__, sys.version, *_engine())
    answer = recall("simulated", *words)
    if not isinstance(answer, dict) or not {"log", "resident_after_bytes", "buffers"} <= set(answer):
        answer = _ask(model, settings, _LIMIT_S)
        remember("simulated", answer, *words)
    return _read(answer)


@functools.lru_cache(maxsize=1)
def _engine() -> tuple[str, ...]:
    """Return llama-cpp-python's version and the GPUs that it can use."""
    build = engine_build()
    return build.version, *(gpu.name for gpu in build.gpus)


def _ask(model: Path, settings: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """Run the child; return its answer."""
    with explain(f"llama.cpp's dry run of {model.name}", ModelLoadError, "use method='formula'"):
        answer = lay_out(model, settings, limit_s, measures=True)
    if answer["error"]:
        reason = " ".join(str(answer["error"]).split()).partition(": ")
        raise ModelLoadError(f"llama.cpp cannot lay {model.name} out: {reason[2] or reason[0]}")
    return answer


def _read(answer: Mapping[str, Any]) -> Simulation:
    log = str(answer["log"])
    sizes = {name: round(sum(map(float, pattern.findall(log))) * _MIB) for name, pattern in _SIZES.items()}
    state = sizes["state"]
    if answer["buffers"] is not None:
        context, sizes["compute"] = (sum(row[column] for row in answer["buffers"]) for column in (2, 3))
        if not sizes["cache"]:
            state = context
        sizes["cache"] = context - state
        if not _SIZES["state"].search(log):
            state = 0
        sizes["device compute"] = sum(row[3] for row in answer["buffers"] if not _HOST.match(row[0]))
    return Simulation(
        kv_cache_bytes=sizes["cache"],
        recurrent_state_bytes=state,
        compute_buffer_bytes=sizes["compute"],
        runtime_bytes=int(answer["resident_after_bytes"]) - state,
        device_compute_bytes=sizes["device compute"],
    )
