"""Preflight of the tensors: types that llama.cpp cannot compute with, where it does not say so itself."""

from __future__ import annotations

import re

from labkit.gguf_file.check_hparams import refuse
from labkit.gguf_file.header import Header
from labkit.gguf_file.source import escape

__all__ = ["check_tensors"]

# Plain numbers that are no weights, and the two types that exist only while computing.
_NO_WEIGHTS = frozenset({"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"})
_INDICES = re.compile(r"(^|\.)(d2t|t2d)$|tid2eid")  # token maps, integers on purpose
_ADDED_OR_SCALED = re.compile(r"(norm|norm_\d+|_ln\d?)\.weight$|\.bias$")  # multiplied or added elementwise: F32 only


def check_tensors(header: Header) -> tuple[str, ...]:
    """Refuse integer weights, norms and biases in anything but F32, and tensors without elements."""
    for tensor in header.tensors:
        kind, name = tensor.type.name, tensor.name
        if kind in _NO_WEIGHTS and not _INDICES.search(name):
            advice = "quantize the model again" if kind.startswith("Q") else "convert the model again"
            refuse(header, f"tensor '{escape(name)}' holds weights as {kind}", advice)
        if kind != "F32" and _ADDED_OR_SCALED.search(name):
            refuse(header, f"tensor '{escape(name)}' is {kind}, a norm or a bias must be F32", "quantize the model again")
        if tensor.n_elements == 0:
            refuse(header, f"tensor '{escape(name)}' has the shape {tensor.shape}, no element at all")
    return ()
