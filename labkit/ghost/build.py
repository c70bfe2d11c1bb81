"""Build a ghost model: a file with a real model's shape and random weights, written at the disk's speed.

References
----------
The format: ggml ``docs/gguf.md``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from labkit.checks import check_int
from labkit.errors import ArgumentTypeError
from labkit.gguf_file import Header, TensorInfo
from labkit.gguf_file.formats import TensorType
from labkit.ghost.keys import control_tokens, describe, hparams, tokenizer_keys
from labkit.ghost.layout import Tensor, layout
from labkit.ghost.mix import choose_types, ghost_file_type
from labkit.ghost.shapes import find_shape
from labkit.ghost.tiles import Pools
from labkit.output_files import check_disk_space, new_file, refuse_existing, temporary_sibling
from labkit.progress import Progress, reporting

ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9  # gguf_metadata_value_type

_Plan = list[tuple[Tensor, TensorType]]


def build_ghost_model(
    target: str | Path,
    *,
    architecture: str = "llama",
    shape: str | Mapping[str, Any] = "7B",
    quantization: str = "Q4_K_M",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
) -> Path:
    """Write a model with a real shape and random weights: same memory use and speed as the real model, meaningless output.

    Parameters
    ----------
    target : str or Path
        The file to write.
    architecture : str
        ``"llama"``, ``"gemma3"``, ``"mamba"``, …; see `ghost_shapes`.
    shape : str or mapping
        A name such as ``"7B"``, or a dict of changes to the architecture's tiny shape, such as
        ``{"n_layer": 4, "n_embd": 512}``; the keys are the attributes of `labkit.ghost.Shape` that the architecture uses.
    quantization : str
        A file type by its name, in any case; each tensor gets the type that llama.cpp's quantizer gives it.
    seed : int
        The same seed and settings give the same bytes.
    overwrite : bool
        Whether to replace an existing target; it is kept until the new file is complete.
    progress : callable or bool, optional
        Called with (written bytes, total bytes); True shows a bar.

    Returns
    -------
    Path
        The file. After an error, Ctrl-C or a full disk no file is left.

    Raises
    ------
    ArgumentError
        When a name or number is invalid, the target exists, or there is too little disk space.
    ArgumentTypeError
        When an argument has the wrong type.

    Notes
    -----
    The rows of a matrix are drawn from a normal distribution with variance 1 / length, so activations neither grow nor
    shrink from layer to layer; norms are ones, and a state-space layer's decay is negative, as in trained models. The
    tokenizer is the bundled model's, truncated or padded to the shape's vocabulary (`labkit.ghost.keys`).
    Name, description and tags in the file mark it as synthetic.

    Examples
    --------
    >>> import tempfile
    >>> from labkit import get_model_info
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = build_ghost_model(f"{folder}/ghost.gguf", shape={"n_layer": 1, "n_embd": 64}, quantization="Q8_0")
    ...     get_model_info(path).tensor_types["Q8_0"]
    (8, 152320)
    """
    seed = check_int("seed", seed, 0, 2**64 - 1)
    path = new_file(target, overwrite=overwrite)
    plan, head, total = ghost_header(architecture, shape, quantization, seed)
    check_disk_space(path.parent, total, f"this {architecture} in {quantization}")
    with temporary_sibling(path) as temporary, reporting(progress, "building", "B") as report:
        with temporary.open("wb") as out:
            out.write(head)
            _write_tensors(out, plan, Pools(plan, seed, control_tokens()), report, total)
        if not overwrite:
            refuse_existing(path)
        temporary.replace(path)
    return path


def ghost_header(
    architecture: str, shape: str | Mapping[str, Any], quantization: str, seed: int = 0
) -> tuple[_Plan, bytes, int]:
    """Return a ghost's tensors with their types, all bytes before their data, and the size of the whole file in bytes."""
    file = ghost_file_type(quantization)
    row = find_shape(architecture, shape)
    plan = choose_types(file, architecture, row.shape, layout(architecture, row.shape))
    keys = {
        **describe(architecture, row.name, row.source, seed, file.id),
        **hparams(architecture, row.shape),
        **tokenizer_keys(row.shape.n_vocab),
    }
    head = header_bytes(keys, _table(plan))
    return plan, head, len(head) + sum(_padded(tensor, kind) for tensor, kind in plan)


def shape_header(architecture: str, shape: str, quantization: str) -> Header:
    """Return the header of a named shape, without a vocabulary; nothing is written.

    Examples
    --------
    >>> header = shape_header("llama", "8B", "Q4_K_M")
    >>> header.source, header.parameter_count, header.weights_bytes
    ('Llama-3.1-8B', 8030261248, 4912898048)
    """
    file, row = ghost_file_type(quantization), find_shape(architecture, shape)
    plan = choose_types(file, architecture, row.shape, layout(architecture, row.shape))
    offsets = (offset for _, _, _, offset in _table(plan))
    keys = {**describe(architecture, row.name, row.source, 0, file.id), **hparams(architecture, row.shape)}
    return Header(
        source=row.source,
        version=3,
        alignment=ALIGNMENT,
        architecture=architecture,
        metadata=keys,
        types={},
        tensors=tuple(
            TensorInfo(tensor.name, tensor.shape, kind, offset, _n_bytes(tensor, kind), tensor.n_elements)
            for (tensor, kind), offset in zip(plan, offsets, strict=True)
        ),
        data_offset=0,
        file_size_bytes=sum(_padded(tensor, kind) for tensor, kind in plan),
        paths=(),
        names=(),
        warnings=(),
    )


def _n_bytes(tensor: Tensor, kind: TensorType) -> int:
    return kind.row_bytes(tensor.shape[0]) * (tensor.n_elements // tensor.shape[0])


def _padded(tensor: Tensor, kind: TensorType) -> int:
    n_bytes = _n_bytes(tensor, kind)
    return n_bytes + padding(n_bytes)


def _table(plan: _Plan) -> list[tuple[str, tuple[int, ...], int, int]]:
    rows, offset = [], 0
    for tensor, kind in plan:
        rows.append((tensor.name, tensor.shape, kind.id, offset))
        offset += _padded(tensor, kind)
    return rows


def _write_tensors(out: BinaryIO, plan: _Plan, pools: Pools, report: Progress, total: int) -> None:
    for tensor, kind in plan:
        for piece in pools.data(tensor, kind):
            out.write(piece.data)
            report(out.tell(), total)
        out.write(bytes(padding(_n_bytes(tensor, kind))))
    report(total, total)


def padding(n_bytes: int) -> int:
    """Return the number of zero bytes after ``n_bytes`` up to the next aligned offset."""
    return -n_bytes % ALIGNMENT


def header_bytes(keys: Mapping[str, Any], tensors: Iterable[tuple[str, tuple[int, ...], int, int]]) -> bytes:
    """Return everything before the tensors' data, padded; whole numbers become uint32, floats float32, arrays int32.

    A tensor is its name, its shape (row length first), its type's number and its offset from the start of the data.
    """
    table = [_tensor(*tensor) for tensor in tensors]
    pairs = [_string(name) + _value(value) for name, value in keys.items()]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(table), len(pairs)) + b"".join(pairs) + b"".join(table)
    return head + bytes(padding(len(head)))


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, np.ndarray):
        return _array(_INT32, len(value), value.astype("<i4").tobytes())
    if isinstance(value, Sequence) and value and isinstance(value[0], str):
        return _array(_STRING, len(value), b"".join(map(_string, value)))
    if isinstance(value, Sequence):
        return _array(_UINT32, len(value), struct.pack(f"<{len(value)}I", *value))
    raise ArgumentTypeError(f"a GGUF value must be text, a number or a list of them here, not {type(value).__name__}")


def _array(kind: int, length: int, data: bytes) -> bytes:
    return struct.pack("<IIQ", _ARRAY, kind, length) + data


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
