"""measure_threads: a model's speed by number of threads, and the ceiling by memory bandwidth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.checks import check_int, check_items
from labkit.engine import Model
from labkit.engine.generation import Stream
from labkit.engine.model import check_model
from labkit.engine.options import MAX_THREADS
from labkit.errors import ArgumentError
from labkit.progress import Progress, reporting
from labkit.records import Record
from labkit.roofline import predict_speed
from labkit.system import logical_cores_available, physical_cores_available
from labkit.tuning.timed_context import Trial, open_trial

if TYPE_CHECKING:
    from labkit.engine.job import Job

_SECONDS = 0.4  # of generation per count


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ThreadSpeed(Record):
    """The speed with one number of threads.

    Attributes
    ----------
    n_threads : int
    prompt_tokens_per_second, decode_tokens_per_second : float
        Measured for llama.cpp only, without sampling and detokenizing.
    """

    n_threads: int
    prompt_tokens_per_second: float
    decode_tokens_per_second: float


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ThreadScaling(Record):
    """The result of `measure_threads`.

    Attributes
    ----------
    n_prompt, n_gen : int
        Prompt tokens, and maximum number of generated tokens.
    physical_cores, logical_cores : int
        Cores that this process may use.
    roofline_tokens_per_second : float
        Decode's ceiling: its speed at the memory's read bandwidth, with one thread per physical core.
    speeds : tuple of ThreadSpeed
        In ascending order of threads.
    """

    n_prompt: int
    n_gen: int
    physical_cores: int
    logical_cores: int
    roofline_tokens_per_second: float
    speeds: tuple[ThreadSpeed, ...]


def choose_thread_counts(physical: int, logical: int) -> tuple[int, ...]:
    """Return numbers of threads that show how speed scales, with one number beyond the logical cores.

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
    """Measure one number of threads after another, until it is closed; the arguments are those of `measure_threads`."""
    counts = _check_counts(n_threads)
    check_int("n_prompt", n_prompt, 1, 2**20)
    check_int("n_gen", n_gen, 1, 2**20)
    trial = Trial.of(check_model(model))

    def measure(job: Job[Any]) -> None:
        with open_trial(model, trial, n_prompt, n_gen) as context:
            context.prompt_s(job, counts[0])  # the first one loads the weights into memory
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
    """Measure a loaded model's prefill and decode speed with different numbers of threads.

    Parameters
    ----------
    model : Model
        From `load_model`; its other settings are kept.
    n_threads : sequence of int, optional
        Numbers to try; by default a selection up to slightly more than the logical cores.
    n_prompt, n_gen : int
        Prompt tokens, and maximum number of generated tokens.
    progress : callable, bool or None
        Called with the numbers measured and the total; True shows a bar.

    Returns
    -------
    ThreadScaling

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For a wrong argument.
    GenerationError
        If the engine fails.
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
    """Return speeds with the roofline, which is measured if not given."""
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
    counts = check_items("n_threads", n_threads, "numbers to try, such as [1, 2, 4]")
    if not counts:
        raise ArgumentError("n_threads is empty: give the numbers to try, such as [1, 2, 4]")
    return tuple(sorted({check_int("n_threads", count, 1, MAX_THREADS) for count in counts}))
