"""Several types of one source, measured in one run: `compare_quantizations`."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from labkit.checks import check_items
from labkit.engine.loading import load_model
from labkit.engine.model import Model
from labkit.errors import ArgumentError, LabkitWarning
from labkit.gguf_file.formats import FileType, file_type, tensor_type
from labkit.model_info import get_model_info
from labkit.models import resolve_model
from labkit.output_files import user_path
from labkit.progress import Progress, reporting
from labkit.quality.comparison import QuantizationComparison, QuantizationQuality
from labkit.quality.divergence import DivergenceResult, Predictions, compare_with, recorded
from labkit.quality.scoring import Window
from labkit.quality.windows import check_size, evaluation_text, text_windows
from labkit.quantize import quantize_model
from labkit.system import cores_left_now
from labkit.tuning.timed_context import time_tokens

DEFAULT_TYPES = ("F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
_DECODED, _ROUNDS = 32, 3  # tokens timed per round; each round covers all types, so a temporary slowdown affects all of them


def compare_quantizations(
    source: str | Path | None = None,
    quantizations: Sequence[str] = DEFAULT_TYPES,
    text: str | None = None,
    *,
    n_ctx: int = 512,
    n_threads: int | None = None,
    folder: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> QuantizationComparison:
    """Quantize one source to several types, and measure size, quality and speed of each in one run.

    Parameters
    ----------
    source : str, Path or None
        A model, preferably in F32, F16 or BF16, which is then the reference. For a quantized source the reference is an F16
        copy, so the loss of the source itself is not measured. None is the bundled model.
    quantizations : sequence of str
        File types by name.
    text, n_ctx
        As for `measure_perplexity`.
    n_threads : int or None
        None is the physical cores that this process may use.
    folder : str, Path or None
        Folder to keep the files in, as ``NAME-TYPE.gguf``; existing files are replaced. None is a temporary folder, which
        needs disk space for all types together.
    progress : callable, bool or None
        Called with (done steps, total steps); True shows a bar.

    Returns
    -------
    QuantizationComparison

    Raises
    ------
    ModelNotFoundError, GGUFError, ModelLoadError, QuantizationError, ArgumentError, ArgumentTypeError
        As in `quantize_model`, `load_model` and `measure_perplexity`.

    Notes
    -----
    Speeds are timed in three rounds over all types, as in llama-bench: with random tokens, without sampling. Only one model
    is loaded at a time.

    Examples
    --------
    >>> import labkit
    >>> table = labkit.compare_quantizations(None, ["Q8_0", "Q2_K"], "It rains, and it rains again. " * 20, n_ctx=32)
    >>> table.row("Q8_0").kl_divergence < table.row("Q2_K").kl_divergence
    True
    """
    kinds = _kinds(quantizations)
    size, _ = check_size(n_ctx, None)
    path = resolve_model(source)
    windows = _windows(path, evaluation_text() if text is None else text, size)
    with _place(folder) as place, reporting(progress, "comparing quantizations", "step") as report:
        run = _Run(path, place, windows, size, n_threads, kinds, report, keep=folder is not None)
        rows = run.measure()
    return QuantizationComparison(
        source=path,
        reference=run.reference_name,
        n_ctx=size,
        n_scored=sum(len(window.targets) for window in windows),
        notes=tuple(run.notes),
        rows=rows,
    )


def _kinds(quantizations: Sequence[str]) -> list[FileType]:
    given = check_items("quantizations", quantizations, "file types", hint=": try ['Q8_0', 'Q4_K_M']")
    kinds = list(dict.fromkeys(map(file_type, given)))
    if not kinds:
        raise ArgumentError("quantizations is empty: name at least one file type, such as 'Q4_K_M'")
    return kinds


def _windows(path: Path, text: str, n_ctx: int) -> list[Window]:
    """Cut the text first, so that a text that is too short fails before any file is made."""
    with load_model(path, vocab_only=True) as model:
        return text_windows(model, text, n_ctx)


@contextlib.contextmanager
def _place(folder: str | Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="labkit-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    path = user_path(folder)
    if not path.is_dir():
        raise ArgumentError(f"folder {path} does not exist: create it first")
    yield path


class _Run:
    """One comparison: make files, compare predictions, time speeds."""

    def __init__(
        self,
        source: Path,
        place: Path,
        windows: list[Window],
        n_ctx: int,
        n_threads: int | None,
        kinds: list[FileType],
        report: Progress,
        *,
        keep: bool,
    ) -> None:
        self.source, self.place, self.windows, self.n_ctx = source, place, windows, n_ctx
        self.n_threads, self.kinds, self.keep = n_threads, kinds, keep
        info = get_model_info(source)
        self.is_reference = not any(tensor_type(name).is_quantized for name in info.tensor_types)
        self.name = info.quantization if self.is_reference else "F16"
        self.reference = source
        self.reference_name = f"{self.name} (the source)" if self.is_reference else "an F16 copy of the source"
        self.notes: list[str] = []
        if not self.is_reference:
            self.notes.append(
                f"The source is already quantized ({info.quantization}, {info.bits_per_weight:.2f} bits per weight): the "
                "reference is an F16 copy of it, so the loss of the source itself is not measured."
            )
        n_files = 1 + sum(kind.name != self.name for kind in kinds)
        self._total = n_files * (1 + _ROUNDS) + len(windows) * (1 + len(kinds)) - self.is_reference
        self._report, self._done = report, 0

    def _advance(self, *_: object) -> None:
        self._done += 1
        self._report(self._done, self._total)

    def _make(self, source: Path, kind: FileType) -> Path:
        target = self.place / f"{self.source.stem}-{kind.name}.gguf"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LabkitWarning)  # the notes have this warning
            quantize_model(source, target, kind.name, n_threads=self.n_threads, overwrite=True)
        self._advance()
        return target

    def measure(self) -> tuple[QuantizationQuality, ...]:
        """Make the files, then measure each."""
        if not self.is_reference:
            self.reference = self._make(self.source, file_type(self.name))
        files = {kind: self.reference if kind.name == self.name else self._make(self.reference, kind) for kind in self.kinds}
        with contextlib.ExitStack() as stack:
            with self._open(self.reference) as model:
                predictions = stack.enter_context(recorded(model, self.windows, self.n_ctx, self.place, self._advance))
            found = {kind: self._compare(predictions, path) for kind, path in files.items()}
        speeds = self._time(list(dict.fromkeys([self.reference, *files.values()])))
        return tuple(self._row(kind, path, found[kind], speeds) for kind, path in files.items())

    def _compare(self, predictions: Predictions, path: Path) -> DivergenceResult:
        with self._open(path) as model:
            return compare_with(predictions, model, self.windows, self.n_ctx, self._advance)

    def _open(self, path: Path) -> Model:
        return load_model(path, n_ctx=256, n_threads=self.n_threads)

    def _time(self, paths: list[Path]) -> dict[Path, list[tuple[float, float]]]:
        """Return tokens per second of prompt and of decoding, one pair per round."""
        speeds: dict[Path, list[tuple[float, float]]] = {path: [] for path in paths}
        n_threads = self.n_threads or cores_left_now()  # the same for all types
        for _ in range(_ROUNDS):
            for path in paths:
                with self._open(path) as model:
                    speeds[path].append(time_tokens(model, n_threads, min(self.n_ctx, 256), _DECODED))
                self._advance()
        return speeds

    def _row(
        self, kind: FileType, path: Path, found: DivergenceResult, speeds: dict[Path, list[tuple[float, float]]]
    ) -> QuantizationQuality:
        info = get_model_info(path)
        same = {field.name: found[field.name] for field in dataclasses.fields(QuantizationQuality) if field.name in found}
        own, base = speeds[path], speeds[self.reference]
        return QuantizationQuality(
            quantization=kind.name,
            file_size_bytes=info.file_size_bytes,
            bits_per_weight=info.bits_per_weight,
            **same,
            prompt_tokens_per_second=statistics.median(prompt for prompt, _ in own),
            decode_tokens_per_second=statistics.median(decode for _, decode in own),
            decode_ratio=statistics.median(mine[1] / its[1] for mine, its in zip(own, base, strict=True)),
            quality_rating=kind.quality,
            speed_rating=kind.speed,
            path=path if self.keep or path == self.source else None,
            is_reference=path == self.reference,
        )
