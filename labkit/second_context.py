"""A second context on the model's weights, for computations with more rows of logits or several sequences."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.engine.native import C, give_back_memory, llama_cpp
from labkit.engine.settings import refuse_unfit
from labkit.errors import GenerationError
from labkit.system.ggml import find_function

if TYPE_CHECKING:
    from labkit.engine.model import Model


@contextlib.contextmanager
def second_context(
    model: Model, *, n_ctx: int, n_batch: int, n_rows: int, n_seq: int = 1, changes: Mapping[str, int] | None = None
) -> Iterator[Any]:
    """Make a context with the model's settings but other sizes; call it in the model's thread.

    ``n_ctx`` counts the tokens of all sequences; each has its own cells. A computation has ``n_batch`` tokens, or the
    model's ``n_ubatch`` if that is less, and keeps ``n_rows`` rows of logits. ``changes`` are other native parameters.
    """
    refuse_unfit(model.facts, dataclasses.replace(model.settings, n_ctx=n_ctx))
    params = type(model.context_params).from_buffer_copy(model.context_params)
    params.n_ctx, params.n_seq_max, params.n_outputs_max = n_ctx, n_seq, n_rows
    params.n_batch, params.n_ubatch = n_batch, min(n_batch, model.settings.n_ubatch)
    for name, value in (changes or {}).items():
        setattr(params, name, value)
    model._log.clear()
    ctx = C.llama_init_from_model(model.native.model, params)
    if not ctx:
        fewer = ", or n_parallel" if n_seq > 1 else ""
        reason = model._log.last_error() or f"it gave no reason; choose a smaller n_ctx{fewer}?"
        raise GenerationError(f"the engine could not create a context of {n_ctx:,} tokens: {reason}")
    try:
        model.native.flag.attach(ctx)
        if model._lora_adapter is not None:
            adapters = (C.llama_adapter_lora_p_ctypes * 1)(model._lora_adapter)  # type: ignore[misc]  # as Llama itself does
            C.llama_set_adapters_lora(ctx, adapters, 1, (ctypes.c_float * 1)(model.lora_scale))
        yield ctx
    finally:
        C.llama_free(ctx)
        give_back_memory()


class _ThreadpoolParams(ctypes.Structure):
    """``ggml_threadpool_params``."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * 512),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


_POLL = 1  # per cent of the time that ggml would at most wait for work without sleeping: 5 ms, longer than between two steps


@contextlib.contextmanager
def kept_threads(ctx: Any, n_threads: int) -> Iterator[None]:
    """Let a context compute with the same threads each time; llama.cpp itself starts new ones for every graph.

    Next to other programs, a new thread waits until it gets a core, and all others wait for it. Without the functions (on
    Windows, or with backends that are loaded later) and with OpenMP, which keeps its own threads, nothing changes.
    """
    pointer = ctypes.c_void_p
    try:
        find = functools.partial(find_function, llama_cpp)
        fill = find("ggml_threadpool_params_init", None, pointer, ctypes.c_int)
        new, free = find("ggml_threadpool_new", pointer, pointer), find("ggml_threadpool_free", None, pointer)
        attach = find("llama_attach_threadpool", None, pointer, pointer, pointer)
        detach = find("llama_detach_threadpool", None, pointer)
    except (AttributeError, OSError, RuntimeError):
        yield
        return
    params = _ThreadpoolParams()
    fill(ctypes.byref(params), n_threads)
    params.poll = _POLL
    pool = new(ctypes.byref(params))
    attach(ctx, pool, pool)
    try:
        yield
    finally:
        detach(ctx)
        free(pool)


@contextlib.contextmanager
def token_batch(n_tokens: int) -> Iterator[Any]:
    """Make a native batch with room for ``n_tokens``, each in sequence 0 by default."""
    batch = C.llama_batch_init(n_tokens, 0, 1)
    try:
        view(batch.n_seq_id, n_tokens)[:] = 1
        for index in range(n_tokens):
            batch.seq_id[index][0] = 0
        yield batch
    finally:
        C.llama_batch_free(batch)


def fill(batch: Any, tokens: Any, start: int, n_rows: int) -> None:
    """Put tokens into a batch, at positions from ``start`` on, with a row of logits for each of the last ``n_rows``."""
    count = batch.n_tokens = len(tokens)
    view(batch.token, count)[:] = tokens
    view(batch.pos, count)[:] = np.arange(start, start + count)
    view(batch.logits, count)[:] = np.arange(count) >= count - n_rows


def view(pointer: Any, count: int) -> Any:
    """Return native memory as an array."""
    return np.ctypeslib.as_array(pointer, (count,))
