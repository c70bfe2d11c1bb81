"""Explorers: controls around the lab's pure functions, for a cell of a notebook or a page of their own.

::

    explorer    Explorer: what all of them share
    background  one thread at most, and only the newest request
    shown       a sentence, a picture and tables, as HTML
    names       the script and style that make sliders speak and pages narrow

``explore("sampling", model)`` in a notebook and ``labkit explore sampling`` in a terminal open the same ones.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import ArgumentError

if TYPE_CHECKING:
    from labkit.engine import Model
    from labkit.widgets.explorer import Explorer

__all__ = ["EXPLORERS", "explore"]

# name -> (module, class, what it shows)
EXPLORERS: dict[str, tuple[str, str, str]] = {
    "gguf": ("gguf", "GGUFExplorer", "a file's keys, tensors and first bytes, and one block decoded step by step"),
    "gpu_layers": ("gpu_layers", "GPULayersExplorer", "what moves to a device with each layer, foretold and really loaded"),
    "memory": ("memory", "MemoryExplorer", "what context, cache types and batches take of this machine's RAM"),
    "playground": ("playground", "Playground", "a prompt or a chat, the samplers' settings, and the text as it comes"),
    "quantization": ("quantization", "QuantizationExplorer", "what each type makes of a tensor's weights, and its cost"),
    "sampling": ("sampling", "SamplingExplorer", "what temperature, top-k, top-p and min-p do to the next token"),
    "threads": ("threads", "ThreadsExplorer", "decode and prefill speed over the number of threads, measured here"),
}


def explore(name: str, model: Model | Path | str | None = None, **options: Any) -> Explorer:
    """Open an explorer: as the last line of a cell it shows its controls and what they change.

    Parameters
    ----------
    name : str
        One of `EXPLORERS`: ``"sampling"`` for example.
    model : Model, Path or str, optional
        A loaded model, or a GGUF file; the course's model by default. A file is loaded where the explorer computes with it,
        and closed with the explorer.
    **options
        What the explorer starts with, as its class says: ``explore("sampling", prompt="Once upon a")``.

    Returns
    -------
    Explorer
        A widget; ``close()`` ends it. Running its cell again closes it too.

    Raises
    ------
    ArgumentError
        For an unknown name.
    """
    if name not in EXPLORERS:
        raise ArgumentError(f"there is no explorer {name!r}: choose one of {', '.join(EXPLORERS)}")
    module, kind, _ = EXPLORERS[name]
    made: Explorer = getattr(importlib.import_module(f"labkit.widgets.{module}"), kind)(model, **options)
    return made
