"""What ``llama_cpp.Llama`` itself loads a model with, so that it can be compared with what load_model chooses."""

from __future__ import annotations

import inspect
import multiprocessing
from typing import TYPE_CHECKING, Any

import llama_cpp

from labkit.engine.settings import ModelSettings
from labkit.kv_cache.size import CELLS

if TYPE_CHECKING:
    from labkit.engine.load_facts import LoadFacts

__all__ = ["llama_settings"]


def llama_settings(
    facts: LoadFacts, n_ctx: int | None, n_threads: int | None, n_gpu_layers: int, options: dict[str, Any]
) -> ModelSettings:
    """Return what ``llama_cpp.Llama(model_path, …)`` would use: its own defaults for all that is not given.

    Parameters
    ----------
    n_ctx, n_threads : int or None
        None is its default: 512 tokens, and half of the CPUs that the machine has, whatever this process may use of them.
    options : dict
        Other keyword arguments, checked.

    References
    ----------
    llama-cpp-python 0.3.36, ``llama_cpp/llama.py`` (``Llama.__init__``); the rest is ``llama_context_default_params``.
    """
    given = {name: parameter.default for name, parameter in inspect.signature(llama_cpp.Llama.__init__).parameters.items()}
    given |= options
    native = llama_cpp.llama_context_default_params()
    tokens = given["n_ctx"] if n_ctx is None else n_ctx
    tokens = tokens or int(facts.hparam("context_length", 0) or 512)
    n_batch, n_cpus = min(tokens, given["n_batch"]), multiprocessing.cpu_count()

    def native_default(name: str) -> Any:
        return getattr(native, name) if given[name] is None else given[name]

    return ModelSettings(
        n_ctx=-(-tokens // CELLS) * CELLS,
        n_threads=n_threads or max(n_cpus // 2, 1),
        n_threads_batch=given["n_threads_batch"] or n_cpus,
        n_gpu_layers=n_gpu_layers,
        n_batch=n_batch,
        n_ubatch=min(n_batch, given["n_ubatch"]),
        use_mmap=bool(given["use_mmap"]) and given["lora_path"] is None,
        flash_attn=bool(given["flash_attn"]),
        swa_full=bool(native_default("swa_full")),
        n_outputs_max=int(native.n_outputs_max),
        type_k=int(native_default("type_k")),
        type_v=int(native_default("type_v")),
        reasons={},
    )
