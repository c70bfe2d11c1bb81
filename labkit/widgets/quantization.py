"""Quantization explorer: weights of a tensor before and after quantization, and the error of each type."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from labkit.checks import visible
from labkit.errors import ArgumentError
from labkit.gguf_file import Header, TensorInfo
from labkit.gguf_file.formats import tensor_type
from labkit.plots.quantization import plot_quantization
from labkit.tables import Table
from labkit.units import counted
from labkit.widgets.explorer import Values
from labkit.widgets.file_explorer import FileExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.controls import dropdown, slider, tensor_menu
from labkit.widgets.parts.view import View
from labkit.widgets.parts.weights import (
    CHUNK,
    TYPES,
    Floats,
    Loss,
    can_decode,
    loss,
    losses,
    read_weights,
    requantize,
    sample,
)

if TYPE_CHECKING:
    from labkit.engine import Model

STRIP_LENGTH = 64
_NONE = f"the file has no tensor of {CHUNK} weights or more that can be decoded: give another file"


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A tensor's weights in the file (all, or a sample of 65,536), and the error of each type."""

    tensor: TensorInfo
    weights: Floats
    losses: dict[str, Loss]


def strip(header: Header, tensor: TensorInfo, name: str, first: int) -> tuple[Floats, Floats]:
    """Return 64 neighbouring weights before and after quantization, which is done for their chunk of 256.

    ``first`` is the index of the first weight, a multiple of 64.
    """
    start = first // CHUNK * CHUNK
    before = read_weights(header, tensor, start, CHUNK)
    part = slice(first - start, first - start + STRIP_LENGTH)
    return before[part], requantize(name, before)[part]


def sentence(sampled: Sampled, name: str, found: Loss) -> str:
    """Describe the error of a type for a tensor."""
    tensor, count = sampled.tensor, len(sampled.weights)
    kind, source = tensor_type(name), tensor.type
    computed = "all" if count == tensor.n_elements else f"a sample of {count:,} of"
    origin = (
        f"“Before” is what the file's {source.name} blocks decode to, not the originally trained weights."
        if source.is_quantized
        else f"“Before” are the file's {source.name} weights."
    )
    if found.worst == 0:
        origin += f" Nothing is lost: they are exactly representable in {name}."
    fits = tensor.shape[0] % kind.block_size == 0
    misfit = (
        f" Rows of {tensor.shape[0]:,} weights are not a multiple of {name}'s block of {kind.block_size}: llama.cpp would "
        "fall back to another type; here, blocks continue across rows."
    )
    return (
        f"{visible(tensor.name)} as {name}: {kind.bits_per_weight:g} bits per weight, {source.bits_per_weight:g} in the "
        f"file. Over {computed} its {tensor.n_elements:,} weights, the root mean square (RMS) error is {found.rms:.3g}, "
        f"{100 * found.relative:.2g} % of the weights' RMS; the worst error is {found.worst:.3g}. "
        f"{origin}{'' if fits else misfit}"
    )


class QuantizationExplorer(FileExplorer):
    """Requantize a tensor of a file into any of ten types, and show the error.

    Weights are read when needed: 64 for the strip, at most 65,536 for the errors. ``tensor`` is the initial tensor, by
    default the first matrix; ``quantization`` the initial type.
    """

    title: ClassVar[str] = "Quantization explorer"

    def __init__(
        self, model: Model | Path | str | None = None, *, tensor: str | None = None, quantization: str = "Q4_0"
    ) -> None:
        if quantization not in TYPES:
            raise ArgumentError(f"{quantization!r} is not one of the types here: choose one of {', '.join(TYPES)}")
        self.use_file(model)
        self._sampled: Sampled | None = None
        tensors = self.tensors(lambda one: one.n_elements >= CHUNK and can_decode(one.type.name))
        if tensor is not None and tensors and tensor not in [one.name for one in tensors]:
            raise ArgumentError(f"the file has no tensor {tensor!r} that can be decoded: the GGUF explorer lists them")
        matrix = next((one.name for one in tensors if len(one.shape) > 1), None)
        controls = {
            "tensor": tensor_menu(tensors, tensor or matrix),
            "type": dropdown("Type", TYPES, quantization),
            "first": slider("First weight shown", 0, 0, STRIP_LENGTH, STRIP_LENGTH),
        }
        self._fit(controls)
        controls["tensor"].observe(lambda _change: self._fit(controls), names="value")  # before the base class does
        super().__init__(controls)

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Quantize the strip, and the sample if tensor or type has changed."""
        tensor, name = self.tensor(values["tensor"], _NONE), values["type"]
        sampled = self._sample(tensor)
        quantized = requantize(name, sampled.weights)
        found = loss(sampled.weights, quantized)
        first = min(values["first"], _last(tensor))
        before, after = strip(self.header(), tensor, name, first)
        types = {one: (tensor_type(one).bits_per_weight, result.relative) for one, result in sampled.losses.items()}
        figure = plot_quantization(before, after, quantized - sampled.weights, types, chosen=name, first=first)
        return View(sentence(sampled, name, found), figure, _tables(sampled, name, before, after, first))

    def _sample(self, tensor: TensorInfo) -> Sampled:
        if self._sampled is None or self._sampled.tensor is not tensor:
            weights = sample(self.header(), tensor)
            if not np.isfinite(weights).all():
                raise ArgumentError(
                    "some of these weights are NaN or infinite and cannot be quantized: choose another tensor"
                )
            self._sampled = Sampled(tensor, weights, losses(weights))
        return self._sampled

    def _fit(self, controls: dict[str, Any]) -> None:
        """Limit the strip to the tensor's weights."""
        if (name := controls["tensor"].value) is not None:
            controls["first"].max = max(STRIP_LENGTH, _last(self.tensor(name, _NONE)))


def _last(tensor: TensorInfo) -> int:
    """Return the index of the last strip's first weight."""
    return tensor.n_elements // CHUNK * CHUNK - STRIP_LENGTH


def _tables(sampled: Sampled, name: str, before: Floats, after: Floats, first: int) -> list[Table]:
    """Return the tables of the types and of the strip."""
    types = [
        (
            one,
            f"{tensor_type(one).bits_per_weight:g}",
            f"{100 * found.relative:.3g}",
            f"{found.rms:.3g}",
            f"{found.worst:.3g}",
        )
        for one, found in sampled.losses.items()
    ]
    weights = [
        (f"{first + index:,}", f"{old:.5g}", f"{new:.5g}", f"{new - old:.3g}")
        for index, (old, new) in enumerate(zip(before.tolist(), after.tolist(), strict=True))
    ]
    columns = ("type", "bits per weight", "RMS error (% of the weights' RMS)", "RMS error", "worst error")
    return [
        Table(f"Error of each type over {counted(len(sampled.weights), 'weight')}", columns, types),
        Table("The weights shown", ("index", "before", f"after, as {name}", "error"), weights),
    ]
