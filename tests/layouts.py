"""llama.cpp's buffers in this process, to the byte: in a dry run or allocated; for small models only."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp

from labkit.engine.native import claim_log
from labkit.load_check import dry_run_child as child

__all__ = ["SETTINGS", "Layout", "lay_out"]

SETTINGS: dict[str, Any] = {
    "n_ctx": 512, "n_batch": 512, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max": 1, "type_k": 1,
    "type_v": 1, "flash_attn_type": 0, "swa_full": False, "kv_unified": False, "offload_kqv": True,
}  # fmt: skip


class Layout:
    """Weights, cache (with the recurrent state) and graph in bytes, and llama.cpp's log."""

    def __init__(self, rows: list[tuple[str, int, int, int]], log: str) -> None:
        self.rows, self.log = rows, log
        self.weights, self.cache, self.graph = (sum(row[column] for row in rows) for column in (1, 2, 3))

    def logged(self, what: str) -> float:
        """Return the sum of the log's figures for a kind of buffer, MiB (two decimals each)."""
        return sum(map(float, re.findall(rf"{what} buffer size = +([\d.]+) MiB", self.log)))


@contextmanager
def _log() -> Iterator[list[str]]:
    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def collect(_level: int, text: bytes, _user_data: Any) -> None:
        lines.append(text.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    try:
        yield lines
    finally:
        claim_log()


def lay_out(path: Path, *, allocate: bool, mapped: bool = False, n_gpu_layers: int = 0, **settings: Any) -> Layout:
    """Load a model with llama.cpp alone, allocated or as a dry run."""
    request = {"n_gpu_layers": n_gpu_layers, "context": {**SETTINGS, **settings}}
    params = child._model_params(llama_cpp, request)
    params.no_alloc = not allocate
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP if mapped else llama_cpp.LLAMA_LOAD_MODE_NONE
    with _log() as lines:
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        ctx = llama_cpp.llama_init_from_model(model, child._context_params(llama_cpp, request["context"]))
        assert ctx, "".join(lines)[-500:]
        rows = child._breakdown(llama_cpp, ctx)
        log = "".join(lines)
        llama_cpp.llama_free(ctx)
        llama_cpp.llama_model_free(model)
    assert rows is not None
    return Layout(rows, log)
