"""generate_batch, and the same with records or as a stream."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from labkit.batch.loop import Batch
from labkit.batch.parallel import Choice, cells_of, check_parallel, choose_parallel
from labkit.batch.records import BatchChunk, BatchItem, BatchResult
from labkit.batch.sequence import Request
from labkit.checks import check_flag, shown
from labkit.engine.generation import Stream
from labkit.engine.model import Model, check_model
from labkit.engine.sampling_settings import MAX_SEED, SamplingSettings, check_max_tokens, check_sampling
from labkit.engine.worker import Job
from labkit.errors import ArgumentError, ArgumentTypeError, ContextOverflowError, LabkitError
from labkit.progress import Progress, reporting

__all__ = ["BatchStream", "generate_batch", "generate_batch_results", "stream_batch"]


class BatchStream(Stream[BatchChunk]):
    """The chunks of all texts while they are generated: iterate, and ``close()`` (or leave a ``with``) to end it early."""


def generate_batch(
    model: Model,
    prompts: Sequence[str],
    max_tokens: int | None = 100,
    temperature: float = 0.7,
    *,
    n_parallel: int | None = None,
    progress: Progress | bool | None = None,
    **kwargs: Any,
) -> list[str]:
    """Continue many texts together.

    Generating a token reads all weights, and the reading is what takes the time; together, each reading serves all texts.

    Parameters
    ----------
    model : Model
        From `load_model`. Its own cache stays as it is.
    prompts : sequence of str
        What a list of them begins with in common is computed once.
    max_tokens, temperature
        As for `generate_text`, for each prompt.
    n_parallel : int, optional
        Texts at a time, 1 to 256; whenever one ends the next prompt takes its place. None is as many as fit into memory and
        make it fastest on this machine.
    progress : callable, True or None
        Gets tokens done and tokens in all; True shows a bar.
    **kwargs
        As for `generate_text`. With ``seed=s`` prompt ``i`` is drawn with the seed ``s + i``, however many run together.

    Returns
    -------
    list of str
        The continuations, in the order of the prompts. With ``temperature=0`` each is what `generate_text` gives for that
        prompt, except where two tokens lie within rounding of each other: the engine sums in another order for many texts.

    Raises
    ------
    ContextOverflowError
        When a prompt and ``max_tokens`` do not fit the model's context; nothing has been computed then. With
        `generate_batch_results` such a prompt fails alone.
    ArgumentError, ArgumentTypeError, ModelClosedError, GenerationError
        As for `generate_text`.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model:
    ...     labkit.generate_batch(model, ["1, 2, 3, 4,", "a, b, c, d,"], max_tokens=6, temperature=0)
    [' 5, 6,', ' e, f, g,']
    """
    plan = _plan(model, prompts, max_tokens, temperature, n_parallel, kwargs)
    for error in plan.failed.values():
        raise error
    return _run(model, plan, progress, strict=True).texts


def generate_batch_results(
    model: Model,
    prompts: Sequence[str],
    max_tokens: int | None = 100,
    temperature: float = 0.7,
    *,
    n_parallel: int | None = None,
    progress: Progress | bool | None = None,
    **kwargs: Any,
) -> BatchResult:
    """Continue many texts together, and tell about each; takes what `generate_batch` takes.

    A prompt that cannot be computed (too long, no text) fails alone: its item carries the error, the others go on.

    Returns
    -------
    BatchResult
        An item a prompt, with its text or its error, its tokens and times; how many ran together, and why.
    """
    return _run(model, _plan(model, prompts, max_tokens, temperature, n_parallel, kwargs), progress, strict=False)


def stream_batch(
    model: Model,
    prompts: Sequence[str],
    max_tokens: int | None = 100,
    temperature: float = 0.7,
    *,
    n_parallel: int | None = None,
    **kwargs: Any,
) -> BatchStream:
    """Continue many texts together and yield their pieces as they come; takes what `generate_batch` takes.

    Returns
    -------
    BatchStream
        An iterator of `BatchChunk`. The chunks of an index joined are that prompt's text; its last chunk has a
        ``finish_reason``, or the ``error`` of a prompt that failed alone.
    """
    plan = _plan(model, prompts, max_tokens, temperature, n_parallel, kwargs)

    def compute(job: Job[Any]) -> None:
        for item in plan.known_items():
            job.items.put(BatchChunk(item.index, "", 0, 0.0, item.finish_reason, item.error))
        _compute(model, plan, job, job.items.put, lambda _done, _total: None, strict=False)

    return BatchStream(*model.stream_compute(compute))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The prompts that can be computed, those that ask for nothing, and those that failed already."""

    n_prompts: int
    requests: tuple[Request, ...]
    empty: dict[int, int]
    failed: dict[int, LabkitError]
    n_parallel: int | None

    def known_items(self) -> list[BatchItem]:
        """Return what is known without computing."""
        items = [BatchItem(index, "", n_prompt=count, finish_reason="length") for index, count in self.empty.items()]
        return items + [BatchItem(index, "", error=error) for index, error in self.failed.items()]


def _plan(model: Model, prompts: Any, max_tokens: Any, temperature: Any, n_parallel: Any, options: dict[str, Any]) -> _Plan:
    parse_special = check_flag("parse_special", options.pop("parse_special", False))
    settings = check_sampling(temperature, options)
    limit = check_max_tokens(max_tokens)
    texts = _check_prompts(prompts)
    requests: list[Request] = []
    empty: dict[int, int] = {}
    failed: dict[int, LabkitError] = {}
    with check_model(model).vocabulary() as tokenizer:
        n_ctx = model.n_ctx()
        for index, text in enumerate(texts):
            try:
                prompt = tokenizer.prompt_tokens(text, parse_special=parse_special)
            except ArgumentError as error:
                failed[index] = ArgumentError(f"prompts[{index}]: {error}")
                continue
            if len(prompt) + (1 if limit is None else limit) > n_ctx:
                failed[index] = _overflow(index, len(prompt), limit, n_ctx)
            elif limit == 0:
                empty[index] = len(prompt)
            else:
                count = n_ctx - len(prompt) if limit is None else limit
                requests.append(Request(index, prompt, count, _seeded(settings, index)))
    return _Plan(len(texts), tuple(requests), empty, failed, check_parallel(n_parallel))


def _check_prompts(prompts: Any) -> list[str]:
    example = 'write ["first prompt", "second prompt"]'
    if isinstance(prompts, (str, bytes)) or not isinstance(prompts, Sequence):
        raise ArgumentTypeError(f"prompts must be a list of texts, not {shown(prompts)}: {example}")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ArgumentTypeError(f"prompts[{index}] must be text (str), not {shown(prompt)}: {example}")
    return list(prompts)


def _overflow(index: int, n_prompt: int, max_tokens: int | None, n_ctx: int) -> ContextOverflowError:
    error = ContextOverflowError(n_prompt, max_tokens, n_ctx)
    error.args = (f"prompts[{index}]: {error}",)
    return error


def _seeded(settings: SamplingSettings, index: int) -> SamplingSettings:
    if settings.seed is None:
        return settings
    return dataclasses.replace(settings, seed=(settings.seed + index) % (MAX_SEED + 1))


def _run(model: Model, plan: _Plan, progress: Progress | bool | None, *, strict: bool) -> BatchResult:
    started_s = time.perf_counter()
    with reporting(progress, "generating", " tokens") as report:
        batch: Batch | None = None
        choice = Choice(0, "there was nothing to compute")
        if plan.requests:
            batch, choice = model.compute(lambda job: _compute(model, plan, job, lambda _: None, report, strict=strict))
    items = {item.index: item for item in plan.known_items()} | ({} if batch is None else batch.items)
    return BatchResult(
        answers=tuple(items[index] for index in range(plan.n_prompts)),
        n_parallel=choice.n_parallel,
        reason=choice.reason,
        n_prompt_computed=0 if batch is None else batch.n_computed,
        n_prompt_shared=sum(item.n_shared for item in items.values()),
        n_generated=sum(item.n_generated for item in items.values()),
        n_decodes=0 if batch is None else batch.n_decodes,
        elapsed_s=time.perf_counter() - started_s,
        n_threads=0 if batch is None else batch.used.summary(),
    )


def _compute(
    model: Model,
    plan: _Plan,
    job: Job[Any],
    emit: Callable[[BatchChunk], object],
    report: Progress,
    *,
    strict: bool,
) -> Any:
    """Run the batch in the model's thread; returns it, and how many ran together."""
    if not plan.requests:
        return None
    n_cells = cells_of(model, plan.requests)
    choice = choose_parallel(model, job, len(plan.requests), n_cells, plan.n_parallel)
    batch = Batch(model, plan.requests, choice.n_parallel, n_cells, emit=emit, report=report, strict=strict)
    batch.run(job)
    return batch, choice
