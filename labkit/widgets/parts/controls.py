"""Controls other than sliders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets

from labkit.checks import visible
from labkit.gguf_file import TensorInfo

_LOOK = {"style": {"description_width": "initial"}, "layout": {"width": "100%", "max_width": "36em"}}
_MAX_OPTIONS = 2000  # more make a browser slow


def dropdown(label: str, options: Sequence[Any], value: Any) -> Any:
    """Return a dropdown; options are texts, or pairs of text and value."""
    return ipywidgets.Dropdown(description=label, options=options, value=value, **_LOOK)


def search_box(value: str) -> Any:
    """Return a search box, which searches while the user types."""
    return ipywidgets.Text(description="Search", value=value, placeholder="any text in a row, for example rope", **_LOOK)


def tensor_menu(tensors: Sequence[TensorInfo], value: str | None = None) -> Any:
    """Return a dropdown of the first 2,000 tensors, by name and type."""
    offered = tensors[:_MAX_OPTIONS]
    label = "Tensor" if len(offered) == len(tensors) else f"Tensor (the first {_MAX_OPTIONS:,} of {len(tensors):,})"
    names = [tensor.name for tensor in offered]
    chosen = value if value in names else next(iter(names), None)
    return dropdown(label, [(f"{visible(tensor.name)}, {tensor.type.name}", tensor.name) for tensor in offered], chosen)
