"""Explorers: controls around the lab's pure functions, in a notebook cell or on a separate page.

::

    explorer             Explorer, their base class
    file_explorer        for those that read a file, model_explorer for those that compute with a model
    parts/controls       sliders, buttons, menus
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

# module -> class; docs/explorers.md describes them
EXPLORERS = {
    "gguf": "GGUFExplorer", "gpu_layers": "GPULayersExplorer", "memory": "MemoryExplorer", "playground": "Playground",
    "quantization": "QuantizationExplorer", "roofline": "RooflineExplorer", "sampling": "SamplingExplorer",
    "serving": "ServingExplorer", "threads": "ThreadsExplorer", "tokenizer": "TokenizerExplorer",
}  # fmt: skip

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
    with needs_extra():
        made: Explorer = getattr(importlib.import_module(f"labkit.widgets.{name}"), EXPLORERS[name])(model, **options)
    return made
