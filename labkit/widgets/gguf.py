"""GGUF explorer: the contents of a model file, from its first byte to a block of weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ipywidgets

from labkit.checks import visible
from labkit.errors import ArgumentError
from labkit.gguf_file import TensorInfo
from labkit.gguf_file.fields import fields
from labkit.gguf_file.source import LocalSource
from labkit.models import resolve_model
from labkit.plots.file_bytes import plot_groups
from labkit.plots.picture import canvas
from labkit.plots.quantization import plot_weights
from labkit.units import counted
from labkit.widgets.explorer import Values
from labkit.widgets.file_explorer import FileExplorer
from labkit.widgets.parts import header_tables as contents
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.block import parts_of, steps_of
from labkit.widgets.parts.controls import dropdown, slider, tensor_menu
from labkit.widgets.parts.fields_html import fields_table, hex_html
from labkit.widgets.parts.view import View
from labkit.widgets.parts.weights import can_decode, read_bytes

if TYPE_CHECKING:
    from labkit.engine import Model

KEYS, TENSORS, FIRST, BLOCK = VIEWS = ("keys", "tensors", "first bytes", "one block")
N_FIRST = 256
_USED = {KEYS: {"search"}, TENSORS: {"search", "group"}, FIRST: set[str](), BLOCK: {"tensor", "block"}}
_MAX_PLOTTED = 64  # weights of a block of 256: more would be unreadable


class GGUFExplorer(FileExplorer):
    """A file's keys and tensors as searchable tables, its first bytes field by field, and a block decoded step by step.

    Only the header and the displayed data are read; of a URL, only the header. Of a damaged file, the first bytes can still
    be shown. ``show`` is the initial view, one of `VIEWS`; ``search`` the initial search text.
    """

    title: ClassVar[str] = "GGUF explorer"

    def __init__(self, model: Model | Path | str | None = None, *, show: str = KEYS, search: str = "") -> None:
        if show not in VIEWS:
            raise ArgumentError(f"{show!r} is not a view: choose one of {', '.join(VIEWS)}")
        self.use_file(model)
        controls = {
            "show": dropdown("Show", VIEWS, show),
            "search": ipywidgets.Text(description="Search", value=search, placeholder="any text in a row, for example rope"),
            "group": dropdown("Group tensors by", contents.GROUPINGS, contents.GROUPINGS[0]),
            "tensor": tensor_menu(self.tensors(lambda tensor: tensor.n_elements > 0)),
            "block": slider("Block", 0, 0, 1, 1),
        }
        self._fit(controls)
        for name in ("show", "tensor"):  # observed before the base class does, so that the block is valid when it computes
            controls[name].observe(lambda _change: self._fit(controls), names="value")
        super().__init__(controls)

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Return the chosen view."""
        view = values["show"]
        if view == FIRST:
            return self._show_first()
        if view == BLOCK:
            return self._show_block(values["tensor"], values["block"])
        return self._show_keys(values["search"]) if view == KEYS else self._show_tensors(values["search"], values["group"])

    def _show_keys(self, search: str) -> View:
        table = contents.keys_table(self.header(), search)
        sentence = f"{contents.header_sentence(self.header())} Shown: {table.title}."
        return View(sentence, extra_html=contents.scrolled(table))

    def _show_tensors(self, search: str, grouping: str) -> View:
        table, found = contents.tensors_table(self.header(), search)
        sentence = f"{contents.header_sentence(self.header())} Shown: {table.title}."
        groups = contents.groups_of(found, grouping)
        axes = plot_groups(groups, axes=canvas(0.9 + 0.4 * max(1, len(groups)), left=0.37))
        return View(sentence, axes, [contents.groups_table(found, grouping)], contents.scrolled(table))

    def _show_first(self) -> View:
        source = LocalSource(self._path())
        data = source.read(0, min(N_FIRST, source.size))
        found = fields(data)
        named = sum(field.size for field in found)
        sentence = (
            f"The first {len(data):,} of {source.size:,} bytes, in hexadecimal. {named:,} of them belong to "
            f"{counted(len(found), 'field')}; a bar marks the end of each field, and its name is in the line where it "
            "starts."
        )
        if found and found[-1].note:
            sentence += f" The last field ({found[-1].name}): {found[-1].note}."
        return View(sentence, extra_html=hex_html(data, found) + contents.scrolled(fields_table(found)))

    def _show_block(self, name: str | None, number: int) -> View:
        tensor = self.tensor(name, "the file has no tensors: choose another view")
        kind, number = tensor.type, min(number, _blocks(tensor) - 1)
        raw = read_bytes(self.header(), tensor, number * kind.block_bytes, kind.block_bytes)
        steps = steps_of(kind, raw) if can_decode(kind.name) else ()
        tables = contents.block_tables(tensor, number, parts_of(kind, raw), steps)
        sentence = (
            f"Block {number:,} of {_blocks(tensor):,} in {visible(tensor.name)}, {kind.name}: "
            f"{counted(kind.block_bytes, 'byte')} for {counted(kind.block_size, 'weight')}, {kind.bits_per_weight:g} bits "
            f"per weight. {kind.layout}"
        )
        if not steps:
            sentence += " labkit has no decoder for this type."
        extra = "".join(contents.scrolled(table) for table in tables if table.rows)
        return View(sentence, _block_picture(number, steps), extra_html=extra)

    def _path(self) -> Path:
        """Return the file's path, also if the file is damaged."""
        return self._header.paths[0] if self._header is not None and self._header.paths else resolve_model(self._file)

    def _fit(self, controls: dict[str, Any]) -> None:
        """Show only the controls that the view uses, and limit the block to the tensor's."""
        used = _USED[controls["show"].value]
        for name, control in controls.items():
            control.layout.display = None if name == "show" or name in used else "none"
        if (name := controls["tensor"].value) is not None:
            controls["block"].max = max(1, _blocks(self.tensor(name, "")) - 1)


def _blocks(tensor: TensorInfo) -> int:
    return tensor.n_bytes // tensor.type.block_bytes


def _block_picture(number: int, steps: Any) -> Any:
    """Plot the block's weights, if it has several."""
    if len(steps) < 2:
        return None
    import numpy as np

    weights = np.array([step.weight for step in steps[:_MAX_PLOTTED]], np.float32)
    return (
        plot_weights(weights, first=number * len(steps), axes=canvas(2.0, left=0.15)) if np.isfinite(weights).all() else None
    )
