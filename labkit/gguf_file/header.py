"""Header: the metadata and tensor table of a GGUF file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labkit.checks import visible
from labkit.errors import UnknownKeyError
from labkit.gguf_file.tensor_table import TensorInfo
from labkit.units import counted


class Metadata(Mapping[str, Any]):
    """The keys and values of a header, in the order of the file; long arrays are lazy."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        try:
            return self._values[key]
        except KeyError:
            problem = f"the file has no key {key!r}; list(metadata) returns its {counted(len(self), 'key')}"
            raise UnknownKeyError(problem) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'key')}: {', '.join(map(visible, self))}>"


@dataclasses.dataclass(frozen=True, repr=False)
class Header:
    """The metadata and tensor table of a GGUF file.

    Attributes
    ----------
    source : str
        What was read: a path or an address, as given.
    version : int
        Version of the format, 2 or 3.
    alignment : int
        Each tensor's data begins at a multiple of this many bytes.
    architecture : str
        The value of ``general.architecture``.
    metadata : Mapping
        Key -> value: scalars as Python values, short arrays as tuples, long ones as `LazyArray`.
    types : Mapping
        Key -> type of its value in the file: ``"uint32"``, ``"array of string"``.
    tensors : tuple of TensorInfo
        The tensors of every part, in the order of the files.
    data_offset : int
        Byte at which the tensors' data begins in the first part.
    file_size_bytes : int
        Bytes of all parts together.
    paths : tuple of Path
        The files; empty for a model read from a server.
    names : tuple of str
        Paths or addresses of all parts.
    warnings : tuple of str
        Problems that are not errors, one sentence each.
    """

    source: str
    version: int
    alignment: int
    architecture: str
    metadata: Mapping[str, Any]
    types: Mapping[str, str]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size_bytes: int
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    warnings: tuple[str, ...]

    def hparam(self, name: str, default: Any = None) -> Any:
        """Return an architecture's own key: `hparam("block_count")` of a llama is `metadata["llama.block_count"]`."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    @property
    def tensor_types(self) -> dict[str, tuple[int, int]]:
        """Tensor type -> (number of tensors, their bytes), the type with the most bytes first."""
        table: dict[str, tuple[int, int]] = {}
        for tensor in self.tensors:
            count, n_bytes = table.get(tensor.type.name, (0, 0))
            table[tensor.type.name] = (count + 1, n_bytes + tensor.n_bytes)
        return dict(sorted(table.items(), key=lambda row: -row[1][1]))

    @property
    def parameter_count(self) -> int:
        """Number of weights in all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors, without padding."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    def tensor(self, name: str) -> TensorInfo | None:
        """Return a tensor by its name, or None where the model has no such tensor."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    def __repr__(self) -> str:
        kind = f"GGUF {self.version}, {visible(self.architecture)}"
        size = f"{counted(len(self.metadata), 'key')}, {self.file_size_bytes:,} bytes"
        return f"<Header of {visible(self.source, 400)}: {kind}, {counted(len(self.tensors), 'tensor')}, {size}>"
