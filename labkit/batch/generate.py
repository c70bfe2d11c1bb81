"""generate_batch, and its variants that return records or a stream."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from labkit.batch.loop import Batch
from labkit.batch.parallel import Choice, cells_of, check_parallel, choose_parallel
from labkit.batch.records import BatchChunk, BatchItem, BatchResult
from labkit.checks import check_flag, check_items, shown
from labkit.engine.generation import GenerationRequest, Stream
from labkit.engine.job import Job
from labkit.engine.model import Model, check_model
from labkit.engine.sampling_settings import check_max_tokens, check_sampling
from labkit.errors import ArgumentError, ArgumentTypeError, ContextOverflowError, LabkitError
from labkit.progress import Progress, reporting


class BatchStream(Stream[BatchChunk]):
    """An iterator over the chunks of all texts as they are generated; ``close()`` or a ``with`` block ends it early."""


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
    """Continue many prompts together.

    Generating a token reads all weights, which takes most of the time; together, each read serves all texts.

    Parameters
    ----------
    model : Model
        From `load_model`. Its cache is not changed.
    prompts : sequence of str
        A prefix that prompts share is computed once.
    max_tokens, temperature
        As for `generate_text`, for each prompt.
    n_parallel : int, optional
        Texts at a time, 1 to 256; when one ends, the next prompt takes its place. None chooses the fastest number on this
        machine that fits into memory.
    progress : callable, True or None
        Called with tokens done and total tokens; True shows a bar.
    **kwargs
        As for `generate_text`. With ``seed=s``, prompt ``i`` is sampled with seed ``s + i``, for any ``n_parallel``.

    Returns
    -------
    list of str
        The continuations, in the order of the prompts. With ``temperature=0`` each equals `generate_text` for that prompt,
        unless two tokens are equally likely within rounding: the engine sums in a different order for several texts.

    Raises
    ------
    ContextOverflowError
        If a prompt and ``max_tokens`` do not fit the model's context; nothing is computed. With `generate_batch_results`,
        only that prompt fails.
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
    """Continue many prompts together, and return a record of each; the arguments are those of `generate_batch`.

    If a prompt cannot be computed (too long, invalid text), only its item has an error; the others continue.

    Returns
    -------
    BatchResult
        One item per prompt, with its text or error, its tokens and times; how many ran together, and why.
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
    """Continue many prompts together and yield the text as it is generated; the arguments are those of `generate_batch`.

    Returns
    -------
    BatchStream
        An iterator of `BatchChunk`. The chunks of an index, joined, are that prompt's text; its last chunk has a
        ``finish_reason``, or the ``error`` if the prompt failed.
    """
    plan = _plan(model, prompts, max_tokens, temperature, n_parallel, kwargs)

    def compute(job: Job[Any]) -> None:
        for item in plan.known_items():
            job.items.put(BatchChunk(item.index, "", 0, 0.0, item.finish_reason, item.error))
        _compute(model, plan, job, job.items.put, lambda _done, _total: None, strict=False)

    return BatchStream(*model.stream_compute(compute))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The prompts to compute, those with ``max_tokens=0``, and those that failed."""

    n_prompts: int
    requests: tuple[GenerationRequest, ...]
    empty: dict[int, int]
    failed: dict[int, LabkitError]
    n_parallel: int | None

    def known_items(self) -> list[BatchItem]:
        """Return the items of the prompts that need no computing."""
        items = [BatchItem(index, "", n_prompt=count, finish_reason="length") for index, count in self.empty.items()]
        return items + [BatchItem(index, "", error=error) for index, error in self.failed.items()]


def _plan(model: Model, prompts: Any, max_tokens: Any, temperature: Any, n_parallel: Any, options: dict[str, Any]) -> _Plan:
    parse_special = check_flag("parse_special", options.pop("parse_special", False))
    settings = check_sampling(temperature, options)
    limit = check_max_tokens(max_tokens)
    texts = _check_prompts(prompts)
    requests: list[GenerationRequest] = []
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
                requests.append(GenerationRequest(prompt, count, settings.for_prompt(index), index=index))
    return _Plan(len(texts), tuple(requests), empty, failed, check_parallel(n_parallel))


def _check_prompts(prompts: Any) -> list[str]:
    example = ': write ["first prompt", "second prompt"]'
    texts = check_items("prompts", prompts, "texts", hint=example)
    for index, prompt in enumerate(texts):
        if not isinstance(prompt, str):
            raise ArgumentTypeError(f"prompts[{index}] must be text (str), not {shown(prompt)}{example}")
    return list(texts)


def _overflow(index: int, n_prompt: int, max_tokens: int | None, n_ctx: int) -> ContextOverflowError:
    error = ContextOverflowError(n_prompt, max_tokens, n_ctx)
    error.args = (f"prompts[{index}]: {error}",)
    return error


def _run(model: Model, plan: _Plan, progress: Progress | bool | None, *, strict: bool) -> BatchResult:
    started_s = time.perf_counter()
    with reporting(progress, "generating", " tokens") as report:
        batch: Batch | None = None
        choice = Choice(0, "nothing to compute")
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
    """Run the batch in the model's thread; return it and the choice of ``n_parallel``."""
    if not plan.requests:
        return None
    n_cells = cells_of(model, plan.requests)
    choice = choose_parallel(model, job, len(plan.requests), n_cells, plan.n_parallel)
    batch = Batch(model, plan.requests, choice.n_parallel, n_cells, emit=emit, report=report, strict=strict)
    batch.run(job)
    return batch, choice
