"""Build a ghost: a file of a real model's shape with random weights, written as fast as the disk takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.gguf_file.formats import TensorType
from labkit.ghost.keys import describe, hparams
from labkit.ghost.layout import Tensor, layout
from labkit.ghost.mix import choose_types, ghost_file_type
from labkit.ghost.pack import header_bytes, padding
from labkit.ghost.shapes import find_shape
from labkit.ghost.tiles import Pools
from labkit.ghost.tokens import control_tokens, tokenizer_keys
from labkit.output_files import check_room, new_file, refuse_existing, temporary_beside
from labkit.progress import Progress, reporting

__all__ = ["build_ghost_model"]

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
    """Write a model of a real shape with random weights: it loads, takes memory and time as the real one does, and babbles.

    Parameters
    ----------
    target : str or Path
        The file to write.
    architecture : str
        ``"llama"``, ``"gemma3"``, ``"mamba"``, …: `ghost_shapes` lists them.
    shape : str or mapping
        A name such as ``"7B"``, or a dict of numbers that differ from the architecture's tiny shape, such as
        ``{"n_layer": 4, "n_embd": 512}``; the keys are those of `labkit.ghost.Shape` that the architecture reads.
    quantization : str
        A file type by its name, in any case; each tensor gets the type that llama.cpp's quantizer gives it.
    seed : int
        The same seed and settings give the same bytes.
    overwrite : bool
        Whether an existing target may be replaced; it stays until the new one is complete.
    progress : callable or bool, optional
        Called with (bytes written, bytes in all); True shows a bar.

    Returns
    -------
    Path
        The file. An error, a Ctrl-C or a full disk leaves none behind.

    Raises
    ------
    ArgumentError
        When a name or a number cannot work, the target exists, or the disk is too full.
    ArgumentTypeError
        When an argument has the wrong type.

    Notes
    -----
    A row of a matrix is drawn from normal numbers of variance 1 / length, so that numbers neither grow nor fade from
    layer to layer; norms are ones, and a state-space layer's decay is negative, as trained ones are. The
    tokenizer is the bundled model's, cut or padded to the shape's vocabulary (`labkit.ghost.tokens`).
    Name, description and tags in the file say that it is synthetic.

    Examples
    --------
    >>> import tempfile
    >>> from labkit import get_model_info
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = build_ghost_model(f"{folder}/ghost.gguf", shape={"n_layer": 1, "n_embd": 64}, quantization="Q8_0")
    ...     get_model_info(path).tensor_types["Q8_0"]
    (8, 152320)
    """
    file = ghost_file_type(quantization)
    row = find_shape(architecture, shape)
    _check_seed(seed)
    path = new_file(target, overwrite=overwrite)
    plan = choose_types(file, architecture, row.shape, layout(architecture, row.shape))
    keys = {
        **describe(architecture, row.name, row.source, seed, file.id),
        **hparams(architecture, row.shape),
        **tokenizer_keys(row.shape.n_vocab),
    }
    head = header_bytes(keys, _table(plan))
    total = len(head) + sum(_padded(tensor, kind) for tensor, kind in plan)
    check_room(path.parent, total, f"this {architecture} in {file.name}")
    with temporary_beside(path) as temporary, reporting(progress, "building", "B") as report:
        with temporary.open("wb") as out:
            out.write(head)
            _write_tensors(out, plan, Pools(plan, seed, control_tokens()), report, total)
        if not overwrite:
            refuse_existing(path)
        temporary.replace(path)
    return path


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ArgumentTypeError(f"seed is a whole number, not {seed!r}")
    if not 0 <= seed < 1 << 64:
        raise ArgumentError(f"seed is {seed}: 0 to 2^64 - 1 are possible")


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
