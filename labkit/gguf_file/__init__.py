"""GGUF bytes -> Header: the only package that parses GGUF; it does not trust the file.

======================= =====================================================================
`read_header`           a path, a split model or an address -> `Header`; strict and lazy
`preflight`             refuse a file that parses but would abort the process in llama.cpp
`Header`, `TensorInfo`  the contents of a header; a long array is a `LazyArray`, read on demand
======================= =====================================================================
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
