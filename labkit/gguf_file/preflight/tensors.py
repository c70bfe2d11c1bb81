"""Preflight of the tensors: types that llama.cpp cannot compute with and does not refuse itself."""

from __future__ import annotations

import re

from labkit.checks import visible
from labkit.gguf_file.header import Header
from labkit.gguf_file.preflight.architectures import OPTIONAL_ATTENTION
from labkit.gguf_file.preflight.hparams import refuse, uint

# Plain integers, which are not weights, and the two types that exist only during computation.
_NO_WEIGHTS = frozenset({"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"})
_INDICES = re.compile(r"(^|\.)(d2t|t2d)$|tid2eid")  # token maps, integers by design
# Used element by element (multiply, add, scan), which llama.cpp does in F32 only; its converters say
# (conversion/base.py: "Most of the codebase that takes in 1D tensors or norms only handles F32 tensors")
_F32_ONLY = re.compile(
    r"norm(_\d+)?\.weight$|_ln\d?\.weight$|(ssm_conv1d\w*|shortconv\.conv|time_mix_(first|lerp_\w+))\.weight$"
)


def check_tensors(header: Header) -> tuple[str, ...]:
    """Refuse tensors that llama.cpp cannot compute with: of an unsuitable type, empty, or missing."""
    for tensor in header.tensors:
        kind, name = tensor.type.name, tensor.name
        if tensor.n_elements == 0:
            refuse(header, f"tensor '{visible(name)}' has the shape {tensor.shape}, without elements")
        if kind == "F32" or _INDICES.search(name):
            continue
        if kind in _NO_WEIGHTS:
            advice = "quantize the model again" if kind.startswith("Q") else "convert the model again"
            refuse(header, f"tensor '{visible(name)}' holds weights as {kind}", advice)
        if len(tensor.shape) <= 1 or not name.endswith(".weight") or _F32_ONLY.search(name):
            problem = f"tensor '{visible(name)}' is {kind}, a vector, a norm or a bias must be F32"
            refuse(header, problem, "quantize the model again")
    if header.architecture in OPTIONAL_ATTENTION:
        _check_attention_weights(header)
    return ()


def _check_attention_weights(header: Header) -> None:
    names = {tensor.name for tensor in header.tensors}
    for layer in range(uint(header, "block_count") or 0):
        fused, apart = f"blk.{layer}.attn_qkv.weight", [f"blk.{layer}.attn_{part}.weight" for part in "qkv"]
        if fused not in names and not names.issuperset(apart):
            refuse(header, f"tensor '{fused}' is missing")
