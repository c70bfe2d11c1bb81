"""measure_threads: the speed of one model with one thread, two, … beside what memory bandwidth allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.checks import check_int
from labkit.engine import Model
from labkit.engine.generation import Stream
from labkit.engine.model import check_model
from labkit.engine.options import MAX_THREADS
from labkit.errors import ArgumentError
from labkit.progress import Progress, reporting
from labkit.records import Record
from labkit.roofline import predict_speed
from labkit.system import logical_cores_available, physical_cores_available
from labkit.tuning.trial import Trial, open_trial

if TYPE_CHECKING:
    from labkit.engine.worker import Job

__all__ = ["ThreadScaling", "ThreadSpeed", "choose_thread_counts", "measure_threads", "stream_threads"]

_SECONDS = 0.4  # of generating, for each count


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ThreadSpeed(Record):
    """The speed with one number of threads.

    Attributes
    ----------
    n_threads : int
    prompt_tokens_per_second, decode_tokens_per_second : float
        Measured: the engine's own work, without sampling and text.
    """

    n_threads: int
    prompt_tokens_per_second: float
    decode_tokens_per_second: float


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ThreadScaling(Record):
    """What `measure_threads` returns.

    Attributes
    ----------
    n_prompt, n_gen : int
        Tokens of the prompt, and at most so many generated behind it.
    physical_cores, logical_cores : int
        That this process may use.
    roofline_tokens_per_second : float
        Decode at the memory's read bandwidth, with a thread on every physical core: the ceiling.
    speeds : tuple of ThreadSpeed
        By the number of threads, fewest first.
    """

    n_prompt: int
    n_gen: int
    physical_cores: int
    logical_cores: int
    roofline_tokens_per_second: float
    speeds: tuple[ThreadSpeed, ...]


def choose_thread_counts(physical: int, logical: int) -> tuple[int, ...]:
    """Return the numbers of threads that show how speed grows and where it ends: at most one beyond the logical cores.

    Examples
    --------
    >>> choose_thread_counts(8, 16)
    (1, 2, 4, 6, 8, 12, 16, 24)
    >>> choose_thread_counts(2, 2)
    (1, 2, 3)
    """
    powers = {2**power for power in range(12) if 2**power < physical}
    between = {physical * 3 // 4, (physical + logical) // 2, logical + max(1, logical // 2)}
    return tuple(sorted(count for count in powers | between | {physical, logical} if count > 0))


def stream_threads(
    model: Model, n_threads: Sequence[int] | None = None, *, n_prompt: int = 128, n_gen: int = 32
) -> Stream[ThreadSpeed]:
    """Measure one number of threads after the other; takes what `measure_threads` takes.

    Returns
    -------
    Stream of ThreadSpeed
        Iterate over it; ``close()`` from any thread ends the measurement within a computation.
    """
    counts = _check_counts(n_threads)
    check_int("n_prompt", n_prompt, 1, 2**20)
    check_int("n_gen", n_gen, 1, 2**20)
    chosen = check_model(model).settings
    trial = Trial(chosen.flash_attn, chosen.type_k, chosen.type_v, min(512, chosen.n_ubatch))

    def measure(job: Job[Any]) -> None:
        with open_trial(model, trial, n_prompt, n_gen) as context:
            context.prompt_s(job, counts[0])  # the first one brings the weights into memory
            for count in counts:
                prompt_s = context.prompt_s(job, count)
                step_s = context.step_s(job, count, _SECONDS)
                job.items.put(ThreadSpeed(count, n_prompt / prompt_s, 1 / step_s))

    return Stream(*model.stream_compute(measure))


def measure_threads(
    model: Model,
    n_threads: Sequence[int] | None = None,
    *,
    n_prompt: int = 128,
    n_gen: int = 32,
    progress: Progress | bool | None = None,
) -> ThreadScaling:
    """Measure how fast a loaded model reads and writes with different numbers of threads.

    Parameters
    ----------
    model : Model
        From `load_model`; its other settings are kept.
    n_threads : sequence of int, optional
        What to try; a choice up to a little beyond this machine's logical cores by default.
    n_prompt, n_gen : int
        Tokens of the prompt, and at most so many generated behind it.
    progress : callable, bool or None
        Gets how many were measured, and how many there are; True shows a bar.

    Returns
    -------
    ThreadScaling

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For a wrong argument.
    GenerationError
        When the engine fails.
    """
    counts = _check_counts(n_threads)
    found = []
    with reporting(progress, "threads", "count") as report:
        for speed in stream_threads(model, counts, n_prompt=n_prompt, n_gen=n_gen):
            found.append(speed)
            report(len(found), len(counts))
    return scaling(model, found, n_prompt=n_prompt, n_gen=n_gen)


def scaling(
    model: Model, speeds: Sequence[ThreadSpeed], *, n_prompt: int, n_gen: int, roofline: float | None = None
) -> ThreadScaling:
    """Put speeds beside the roofline, which is measured where it is not given."""
    if roofline is None:
        roofline = predict_speed(model.model_path, depth=n_prompt + n_gen // 2).roofline_tokens_per_second
    return ThreadScaling(
        n_prompt,
        n_gen,
        physical_cores_available(),
        logical_cores_available(),
        roofline,
        tuple(sorted(speeds, key=lambda speed: speed.n_threads)),
    )


def _check_counts(n_threads: Sequence[int] | None) -> tuple[int, ...]:
    if n_threads is None:
        return choose_thread_counts(physical_cores_available(), logical_cores_available())
    if isinstance(n_threads, (int, str)) or not len(n_threads):
        raise ArgumentError(f"n_threads={n_threads!r}: give the numbers to try, [1, 2, 4] for example")
    return tuple(sorted({check_int("n_threads", count, 1, MAX_THREADS) for count in n_threads}))
