"""run_milestone: a 7B model with one stream and with ten prompts together, compared with the machine's limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labkit.batch import generate_batch_results
from labkit.benchmark import benchmark_inference
from labkit.cache import cache_folder
from labkit.checks import check_int, check_number
from labkit.engine import Model, load_model
from labkit.errors import ModelLoadError
from labkit.ghost import build_ghost_model
from labkit.kv_cache import CELLS
from labkit.memory import estimate_memory_usage
from labkit.milestone.advice import advise, verdict_of
from labkit.milestone.records import LAB_PROMPTS, MilestoneFigure, MilestoneResult
from labkit.model_info import get_model_info
from labkit.models import resolve_model
from labkit.progress import Progress
from labkit.roofline import SpeedPrediction, predict_speed
from labkit.system import cores_left_now, measure_system
from labkit.units import format_bytes, round_up

_COUNTS_FROM = 6.5e9  # weights of the smallest models called "7B"
_QUANTIZED = 9.0  # maximum bits per weight of a quantized model
_MORE = (16, 32)  # larger numbers of prompts, for which the speed is only predicted
_DEPTH = 32


def run_milestone(
    model_path: str | Path | None = None,
    *,
    target: float = 10.0,
    max_tokens: int = 32,
    n_threads: int | None = None,
    progress: Progress | bool | None = None,
) -> MilestoneResult:
    """Measure a model with one prompt, then with the lab's ten together; compare both with this machine's limit.

    Parameters
    ----------
    model_path : str, Path or None
        A quantized 7B model. None builds a ghost model of Llama-2-7B's shape in Q4_K_M once (4.1 GB) in labkit's cache
        folder. It is labelled as synthetic: as fast as the real one, but its text is noise.
    target : float
        Tokens per second to pass.
    max_tokens : int
        Tokens to generate per prompt.
    n_threads : int or None
        As for `load_model`.
    progress : callable, bool or None
        As for `build_ghost_model`.

    Returns
    -------
    MilestoneResult
        ``to_text()``, ``to_json()`` and ``to_png()`` are the card.

    Raises
    ------
    ModelNotFoundError, GGUFError, ModelLoadError
        As for `load_model`; also before loading, if the model does not fit into the free RAM.
    ArgumentError
        For a wrong argument, or if the disk has no space for the ghost model.
    """
    check_number("target", target, 0.001, 1e6)
    check_int("max_tokens", max_tokens, 2, 1024)
    path = ghost_path(progress) if model_path is None else resolve_model(model_path)
    info = get_model_info(path)
    cells = round_up(64 + max_tokens, CELLS)
    _refuse_unfit(path, cells)
    system = measure_system(seconds=0.5)
    threads = cores_left_now() if n_threads is None else n_threads  # the same for predictions and measurements

    def predict(*numbers: int) -> dict[int, SpeedPrediction]:
        options: dict[str, Any] = {"n_threads": threads, "system": system, "depth": _DEPTH, "n_prompt": 1}  # decoding alone
        return {n: predict_speed(path, n_parallel=n, **options) for n in numbers}

    predictions = predict(1, len(LAB_PROMPTS))
    with load_model(path, n_ctx=cells, n_threads=threads) as model:
        one, _ = _measure(model, 1, max_tokens, predictions[1], target)
        together, memory = _measure(model, len(LAB_PROMPTS), max_tokens, predictions[len(LAB_PROMPTS)], target)
    if not together.passes:  # only then the advice needs them
        predictions |= predict(*_MORE)
    counts = info.parameter_count >= _COUNTS_FROM and info.bits_per_weight <= _QUANTIZED
    return MilestoneResult(
        model=path.name,
        model_name=info.name,
        architecture=info.architecture,
        quantization=info.quantization,
        parameter_count=info.parameter_count,
        file_size_bytes=info.file_size_bytes,
        is_synthetic="synthetic" in map(str, info.metadata.get("general.tags", ())),
        counts=counts,
        target_tokens_per_second=float(target),
        one_stream=one,
        together=together,
        passes=counts and (one.passes or together.passes),
        verdict=verdict_of(one, together, target, counts=counts),
        advice=advise(target, (one, together), predictions[1], predictions),
        max_tokens=max_tokens,
        n_threads=threads,
        memory_bytes=memory,
        system=system,
    )


def ghost_path(progress: Progress | bool | None = None) -> Path:
    """Return the ghost model of Llama-2-7B's shape; build it if it does not exist."""
    path = cache_folder() / "ghosts" / "llama-7B.Q4_K_M.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        build_ghost_model(path, architecture="llama", shape="7B", quantization="Q4_K_M", progress=progress)
    return path


def _refuse_unfit(path: Path, cells: int) -> None:
    needed = estimate_memory_usage(path, cells * (1 + len(LAB_PROMPTS)), n_seq=1, method="formula")
    if not needed.fits:
        raise ModelLoadError(
            f"{path.name} with {len(LAB_PROMPTS)} prompts together needs {format_bytes(needed.total_bytes)} of RAM, more "
            "than is free: close other programs, or use a smaller model"
        )


def _measure(
    model: Model, n_parallel: int, max_tokens: int, prediction: SpeedPrediction, target: float
) -> tuple[MilestoneFigure, int]:
    """Warm up, then measure; return the figure and the peak RSS."""
    prompts = LAB_PROMPTS[:n_parallel]
    generate_batch_results(model, prompts, 2, 0)
    result = benchmark_inference(
        model, list(prompts), max_tokens=max_tokens, warmup=0, repeats=3, n_parallel=n_parallel, engine=False
    )
    figure = MilestoneFigure(
        n_parallel=n_parallel,
        tokens_per_second=result.tokens_per_second,
        decode_tokens_per_second=result.decode_tokens_per_second or 0.0,
        predicted_tokens_per_second=prediction.decode_tokens_per_second,
        roofline_tokens_per_second=prediction.roofline_tokens_per_second,
        limit=prediction.limit,
        passes=result.tokens_per_second > target,
    )
    return figure, result.memory_bytes
