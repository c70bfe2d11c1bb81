"""FileExplorer: base class of the explorers of a model's file, with its header and tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import ArgumentError, LabkitError
from labkit.gguf_file import Header, TensorInfo
from labkit.model_info import read_model_header
from labkit.models import course_model
from labkit.widgets.explorer import Explorer

if TYPE_CHECKING:
    from labkit.engine import Model


class FileExplorer(Explorer):
    """Base class of the explorers that read a file without loading the model; call `use_file` before ``super().__init__``.

    The constructor accepts a damaged file: `tensors` returns none, and `compute` raises the error, which is shown.
    """

    def use_file(self, model: Model | Path | str | None) -> None:
        """Set the file."""
        given: Any = course_model() if model is None else model
        self._file: Path | str = getattr(given, "model_path", given)  # a Model's, without importing the engine
        self._header: Header | None = None

    def header(self) -> Header:
        """Return the file's header, read once."""
        if self._header is None:
            self._header = read_model_header(self._file)
        return self._header

    def tensors(self, fits: Callable[[TensorInfo], bool]) -> list[TensorInfo]:
        """Return the tensors that can be chosen; an empty list for a damaged file."""
        try:
            return [tensor for tensor in self.header().tensors if fits(tensor)]
        except LabkitError:  # `compute` raises it again, and the explorer shows it
            return []

    def tensor(self, name: str | None, missing: str) -> TensorInfo:
        """Return the chosen tensor; without one, raise an error with the message ``missing``."""
        found = self.header().tensor(name or "")
        if found is None:
            raise ArgumentError(missing)
        return found
