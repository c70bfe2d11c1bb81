"""Explorers: controls around the lab's pure functions, in a notebook cell or on a separate page.

::

    explorer             Explorer, their base class
    parts/background     one thread at most, and only the newest request
    parts/view           a sentence, a picture and tables, as HTML
    parts/accessibility  script and style for screen readers and narrow screens

``explore("sampling", model)`` in a notebook and ``labkit explore sampling`` in a terminal open the same explorer.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import ArgumentError
from labkit.extras import needs_extra

if TYPE_CHECKING:
    from labkit.engine import Model
    from labkit.widgets.explorer import Explorer

__all__ = ["EXPLORERS", "READ_FILES", "explore"]

# name -> (module, class, description)
EXPLORERS: dict[str, tuple[str, str, str]] = {
    "gguf": ("gguf", "GGUFExplorer", "a file's keys, tensors and first bytes, and one block decoded step by step"),
    "gpu_layers": ("gpu_layers", "GPULayersExplorer", "RAM and device memory by GPU layers, estimated and measured"),
    "memory": ("memory", "MemoryExplorer", "RAM needed by context, cache types and batch sizes"),
    "playground": ("playground", "Playground", "text generation or a chat, with sampler settings and streaming"),
    "quantization": ("quantization", "QuantizationExplorer", "a tensor's weights in each quantization type, and the errors"),
    "roofline": ("roofline", "RooflineExplorer", "a model's most tokens per second on any machine, and what limits it"),
    "sampling": ("sampling", "SamplingExplorer", "the effect of temperature, top-k, top-p and min-p on the next token"),
    "serving": ("serving", "ServingExplorer", "several users on some slots: who waits, and when the first token comes"),
    "threads": ("threads", "ThreadsExplorer", "decode and prefill speed by number of threads, also next to a busy core"),
    "tokenizer": ("tokenizer", "TokenizerExplorer", "a text's tokens while you type: pieces, ids, bytes and cost"),
}

READ_FILES = frozenset({"gguf", "memory", "quantization"})  # these need a model's file, but not llama.cpp


def explore(name: str, model: Model | Path | str | None = None, **options: Any) -> Explorer:
    """Open an explorer; show it as the last line of a cell.

    Parameters
    ----------
    name : str
        One of `EXPLORERS`, such as ``"sampling"``.
    model : Model, Path or str, optional
        A loaded model, or a GGUF file; the course's model by default. A file is loaded if the explorer computes with it, and
        closed with the explorer.
    **options
        Initial values, documented by the explorer's class: ``explore("sampling", prompt="Once upon a")``.

    Returns
    -------
    Explorer
        A widget. ``close()`` closes it; so does running its cell again.

    Raises
    ------
    ArgumentError
        For an unknown name.
    """
    if name not in EXPLORERS:
        raise ArgumentError(f"{name!r} is not an explorer: choose one of {', '.join(EXPLORERS)}")
    module, kind, _ = EXPLORERS[name]
    with needs_extra():
        made: Explorer = getattr(importlib.import_module(f"labkit.widgets.{module}"), kind)(model, **options)
    return made
