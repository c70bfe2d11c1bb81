"""GGUF bytes -> Header: the only package that parses GGUF; it does not trust the file.

======================= =====================================================================
`read_header`           a path, a split model or an address -> `Header`; strict and lazy
`preflight`             refuse a file that parses but would abort the process in llama.cpp
`Header`, `TensorInfo`  the contents of a header; a long array is a `LazyArray`, read on demand
======================= =====================================================================
"""

from labkit.gguf_file.header import Header
from labkit.gguf_file.read import read_header
from labkit.gguf_file.tensor_table import TensorInfo
from labkit.gguf_file.values import LazyArray

__all__ = ["Header", "LazyArray", "TensorInfo", "read_header"]
