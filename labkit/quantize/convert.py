"""Quantize a whole model with llama.cpp's quantizer: `quantize_model`."""

from __future__ import annotations

import dataclasses
import os
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from labkit.checks import check_flag, check_int
from labkit.errors import ArgumentError, LabkitWarning
from labkit.gguf_file import Header, read_header
from labkit.gguf_file.formats import file_type, tensor_type
from labkit.gguf_file.preflight import preflight
from labkit.models import resolve_model
from labkit.output_files import check_disk_space, new_file, refuse_existing, temporary_sibling
from labkit.progress import Progress, reporting
from labkit.quantize.process import run_quantizer
from labkit.records import Record
from labkit.system import check_engine, physical_cores_available

_FALLBACK = re.compile(r"warning: +(\S+) +- ncols.*required for type +(\w+)\).*-> falling back to +(\w+)")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Fallback(Record):
    """A tensor with a fallback type, because its rows are not a multiple of the intended type's block."""

    tensor: str
    wanted: str
    given: str


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class QuantizationResult(Record):
    """Result of `quantize_model`."""

    source: Path
    target: Path
    quantization: str  #: the file type, such as "Q4_K_M"
    source_bytes: int  #: of all parts together
    target_bytes: int
    bits_per_weight: float  #: 8 * target_bytes / weights
    elapsed_s: float  #: wall time, including the start of the process
    tensor_types: Mapping[str, tuple[int, int]]  #: type -> (tensors, bytes) in the target
    fallbacks: tuple[Fallback, ...]  #: tensors that got another type than the file type intends
    warnings: tuple[str, ...]  #: problems of the source


def quantize_model(
    source: str | Path,
    target: str | Path,
    quantization: str = "Q4_K_M",
    *,
    n_threads: int | None = None,
    progress: Progress | bool | None = None,
    overwrite: bool = False,
) -> QuantizationResult:
    """Write a quantized copy of a model; after an error, Ctrl-C or a full disk no file is left.

    Parameters
    ----------
    source : str or Path
        A GGUF file, any part of a split one, or a name as for `load_model`, preferably in F32, F16 or BF16.
    target : str or Path
        The file to write.
    quantization : str
        A file type by its name, in any case.
    n_threads : int, optional
        None is the physical cores that this process may use.
    progress : callable or bool, optional
        Called with (started tensors, total tensors); True shows a bar.
    overwrite : bool
        Whether to replace an existing target; it is kept until the new file is complete.

    Raises
    ------
    ArgumentError
        When the type is unknown, the target exists or is the source, or the disk is too full.
    GGUFError
        When the source is not a valid GGUF.
    EngineError, QuantizationError
        When llama.cpp cannot be loaded, or could not quantize it.

    Warns
    -----
    LabkitWarning
        When the source is already quantized: its quality loss remains, and more is lost.

    Notes
    -----
    llama.cpp's quantizer cannot be interrupted and may abort its process, so it runs in a subprocess.
    """
    started = time.perf_counter()
    kind = file_type(quantization)
    threads = physical_cores_available()
    if n_threads is not None:
        threads = check_int("n_threads", n_threads, 1, 1024, hint=", or None for this machine's cores")
    given = resolve_model(source)
    header = read_header(given)
    check_engine()
    path = _target(target, header, overwrite=overwrite)
    warned = preflight(header)
    n_bytes = int(header.parameter_count * tensor_type(kind.tensor_type).bits_per_weight / 8)
    check_disk_space(path.parent, n_bytes, f"a copy in {kind.name}")
    quantized = sorted({t.type.name for t in header.tensors if t.type.is_quantized})
    if quantized:
        lossy = (
            f"{header.source} is already quantized ({', '.join(quantized)}): quantize from F16 or F32 for the best quality"
        )
        warnings.warn(lossy, LabkitWarning, stacklevel=2)
        warned = (*warned, lossy)
    request = {
        "ftype": kind.id,
        "n_threads": threads,
        "source": os.path.abspath(header.paths[0]),  # noqa: PTH100 - never resolved: parts find each other by their names
        "allow_requantize": bool(quantized),
    }
    with temporary_sibling(path) as temporary, reporting(progress, "quantizing", "tensor") as report:
        log = run_quantizer({**request, "folder": str(path.parent), "output": temporary.name}, report)
        made = read_header(temporary)
        if not overwrite:
            refuse_existing(path)
        temporary.replace(path)
    return QuantizationResult(
        source=given,
        target=path,
        quantization=kind.name,
        source_bytes=header.file_size_bytes,
        target_bytes=made.file_size_bytes,
        bits_per_weight=8 * made.file_size_bytes / max(1, made.parameter_count),
        elapsed_s=time.perf_counter() - started,
        tensor_types=made.tensor_types,
        fallbacks=tuple(Fallback(name, wanted.upper(), given.upper()) for name, wanted, given in _FALLBACK.findall(log)),
        warnings=warned,
    )


def _target(target: str | Path, header: Header, *, overwrite: bool) -> Path:
    path = new_file(target, overwrite=True)
    if any(path.resolve() == part.resolve() or (path.exists() and path.samefile(part)) for part in header.paths):
        raise ArgumentError(f"the target {path} is the source: give another file")
    if not check_flag("overwrite", overwrite):
        refuse_existing(path)
    return path
