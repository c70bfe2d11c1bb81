"""What explorers of a model's file share: a header that is read once, and tensors to choose from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import ArgumentError, LabkitError
from labkit.gguf_file import Header, TensorInfo
from labkit.model_info import read_model_header
from labkit.widgets.explorer import Explorer
from labkit.widgets.parts.loaded_model import file_of

if TYPE_CHECKING:
    from labkit.engine import Model

__all__ = ["FileExplorer"]


class FileExplorer(Explorer):
    """Base of the explorers that read a file and load no model: `use_file` comes before the constructor of the base.

    A damaged file is no error of the constructor: its tensors are none, and `compute` asks for the header again.
    """

    def use_file(self, model: Model | Path | str | None) -> None:
        """Say which file it is."""
        self._file = file_of(model)
        self._header: Header | None = None

    def header(self) -> Header:
        """Return the file's header, read once.

        Raises
        ------
        LabkitError
            When the file is missing or damaged.
        """
        if self._header is None:
            self._header = read_model_header(self._file)
        return self._header

    def tensors(self, fits: Callable[[TensorInfo], bool]) -> list[TensorInfo]:
        """Return the tensors that can be chosen: none of a damaged file."""
        try:
            return [tensor for tensor in self.header().tensors if fits(tensor)]
        except LabkitError:  # `compute` meets it again, and the explorer shows it
            return []

    def tensor(self, name: str | None, missing: str) -> TensorInfo:
        """Return the chosen tensor.

        Raises
        ------
        ArgumentError
            When there is none; ``missing`` says why.
        """
        found = self.header().tensor(name or "")
        if found is None:
            raise ArgumentError(missing)
        return found
