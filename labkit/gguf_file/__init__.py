"""GGUF bytes -> Header: the only room that reads GGUF bytes; it trusts nothing.

======================= =====================================================================
`read_header`           a path, a split model or an address -> `Header`; strict and lazy
`preflight`             refuse what parses well but would end the process in the engine
`Header`, `TensorInfo`  what the file says; `LazyArray` is a long array, read on demand
======================= =====================================================================
"""

from labkit.gguf_file.header import Header, Metadata
from labkit.gguf_file.preflight.run import preflight
from labkit.gguf_file.read import read_header
from labkit.gguf_file.tensor_table import TensorInfo
from labkit.gguf_file.values import LazyArray

__all__ = ["Header", "LazyArray", "Metadata", "TensorInfo", "preflight", "read_header"]
