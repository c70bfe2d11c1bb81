"""Controls of the explorers; `labkit.widgets.parts.accessibility` sets their width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets

from labkit.checks import visible
from labkit.gguf_file import TensorInfo

_MAX_OPTIONS = 2000  # more make a browser slow


def slider(label: str, value: float, low: float, high: float, step: float, **options: Any) -> Any:
    """Return a slider of integers or floats, depending on ``step``."""
    if isinstance(step, int):
        return ipywidgets.IntSlider(value, low, high, step, description=label, **options)
    return ipywidgets.FloatSlider(value, min=low, max=high, step=step, description=label, readout_format=".2f", **options)


def log_slider(label: str, value: float, low: float, high: float) -> Any:
    """Return a logarithmic slider from ``10**low`` to ``10**high``, twenty steps per power of ten."""
    return ipywidgets.FloatLogSlider(value, min=low, max=high, step=0.05, description=label, readout_format=",.0f")


def sampler_sliders() -> dict[str, Any]:
    """Return a slider for each sampler setting, and for the seed."""
    return {
        "temperature": slider("Temperature", 0.7, 0.0, 3.0, 0.05),
        "top_k": slider("Top-k (0 keeps all)", 40, 0, 100, 1),
        "top_p": slider("Top-p", 0.95, 0.0, 1.0, 0.01),
        "min_p": slider("Min-p", 0.05, 0.0, 1.0, 0.01),
        "seed": slider("Seed", 0, 0, 100, 1),
    }


def button(label: str, act: Callable[[], object]) -> Any:
    """Return a button that calls ``act`` when pressed."""
    made = ipywidgets.Button(description=label, tooltip=label)
    made.on_click(lambda _button: act())
    return made


def dropdown(label: str, options: Sequence[Any], value: Any) -> Any:
    """Return a dropdown; options are texts, or pairs of text and value."""
    return ipywidgets.Dropdown(description=label, options=options, value=value)


def tensor_menu(tensors: Sequence[TensorInfo], value: str | None = None) -> Any:
    """Return a dropdown of the first 2,000 tensors, by name and type."""
    offered = tensors[:_MAX_OPTIONS]
    label = "Tensor" if len(offered) == len(tensors) else f"Tensor (the first {_MAX_OPTIONS:,} of {len(tensors):,})"
    names = [tensor.name for tensor in offered]
    chosen = value if value in names else next(iter(names), None)
    return dropdown(label, [(f"{visible(tensor.name)}, {tensor.type.name}", tensor.name) for tensor in offered], chosen)
