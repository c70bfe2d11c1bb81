"""Quantize a whole model with llama.cpp's quantizer: `quantize_model`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import re
import subprocess
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.checks import check_flag, check_int
from labkit.children import queue_lines, request_line, script_command
from labkit.errors import ArgumentError, LabkitWarning, QuantizationError
from labkit.gguf_file import Header, read_header
from labkit.gguf_file.formats import file_type, tensor_type
from labkit.gguf_file.preflight import preflight
from labkit.models import resolve_model
from labkit.output_files import check_disk_space, new_file, refuse_existing, temporary_sibling
from labkit.progress import Progress, reporting
from labkit.records import Record
from labkit.system import check_engine, physical_cores_available

_CHILD = Path(__file__).with_name("child.py")
_STEP = re.compile(r"\[ *(\d+)/ *(\d+)\]")
_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_FALLBACK = re.compile(r"warning: +(\S+) +- ncols.*required for type +(\w+)\).*-> falling back to +(\w+)")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Fallback(Record):
    """A tensor with a fallback type, because its rows are not a multiple of the intended type's block."""

    tensor: str
    wanted: str
    given: str


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class QuantizationResult(Record):
    """Result of `quantize_model`.

    Attributes
    ----------
    source, target : Path
        The files.
    quantization : str
        The file type, such as ``"Q4_K_M"``.
    source_bytes, target_bytes : int
        Sizes of the files, all parts of a split source together.
    bits_per_weight : float
        ``8 * target_bytes / weights``.
    elapsed_s : float
        Wall time, including the start of the process.
    tensor_types : dict
        Type -> (tensors, bytes) in the target.
    fallbacks : tuple of Fallback
        Tensors that got another type than the file type intends.
    warnings : tuple of str
        Problems of the source.
    """

    source: Path
    target: Path
    quantization: str
    source_bytes: int
    target_bytes: int
    bits_per_weight: float
    elapsed_s: float
    tensor_types: Mapping[str, tuple[int, int]]
    fallbacks: tuple[Fallback, ...]
    warnings: tuple[str, ...]


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
    warned = (*preflight(header), *_warn_of_loss(header))
    n_bytes = int(header.parameter_count * tensor_type(kind.tensor_type).bits_per_weight / 8)
    check_disk_space(path.parent, n_bytes, f"a copy in {kind.name}")
    request = {
        "ftype": kind.id,
        "n_threads": threads,
        "source": os.path.abspath(header.paths[0]),  # noqa: PTH100 - never resolved: parts find each other by their names
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


def _warn_of_loss(header: Header) -> tuple[str, ...]:
    """Warn about a source that is already quantized; return the warning."""
    quantized = sorted({tensor.type.name for tensor in header.tensors if tensor.type.is_quantized})
    if not quantized:
        return ()
    lossy = f"{header.source} is already quantized ({', '.join(quantized)}): quantize from F16 or F32 for the best quality"
    warnings.warn(lossy, LabkitWarning, stacklevel=3)
    return (lossy,)


def _target(target: str | Path, header: Header, *, overwrite: bool) -> Path:
    path = new_file(target, overwrite=True)
    if any(path.resolve() == part.resolve() or (path.exists() and path.samefile(part)) for part in header.paths):
        raise ArgumentError(f"the target {path} is the source: give another file")
    if not check_flag("overwrite", overwrite):
        refuse_existing(path)
    return path


def run_quantizer(request: Mapping[str, Any], report: Progress) -> str:
    """Quantize in a child process and return llama.cpp's log."""
    process = _start()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    reader = threading.Thread(target=queue_lines, args=(process.stdout, lines), name="labkit-quantize", daemon=True)
    reader.start()
    try:
        process.stdin.write(request_line(request))  # type: ignore[union-attr]  # stdin=PIPE
        process.stdin.flush()  # type: ignore[union-attr]  # likewise
        return _follow(process, lines, report)
    finally:  # also on Ctrl-C
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]  # stdin=PIPE
        reader.join(5)
        process.stdout.close()  # type: ignore[union-attr]  # stdout=PIPE


def _start() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            script_command(_CHILD), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise QuantizationError(f"the quantizer's process could not be started ({error}): nothing was written") from error


def _follow(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes], report: Progress) -> str:
    log: list[str] = []
    errors: list[str] = []
    while True:
        try:
            line = lines.get(timeout=0.2)  # short, so that Ctrl-C works on Windows too
        except queue.Empty:
            continue
        message: dict[str, Any] = json.loads(line) if line else {"status": None}
        if "status" in message:
            break
        log.append(message["log"])
        if message["level"] == _ERROR_LEVEL:
            errors.append(message["log"])
        step = _STEP.match(message["log"])
        if step:
            report(int(step[1]), int(step[2]))
    if message["status"] == 0:
        return "".join(log)
    reason = " ".join("".join(errors).replace("=", "").split())
    if "iostream" in reason:
        reason += "; is the disk full?"
    if message["status"] is None:
        reason = f"its process ended with {process.wait()} {reason}".strip()
    raise QuantizationError(f"llama.cpp could not quantize the model ({reason or 'it gave no reason'}): nothing was written")
