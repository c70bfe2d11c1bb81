"""predict_speed: bytes and operations per token, and the time llama.cpp's kernels need for them on this machine."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.checks import check_flag, check_int
from labkit.engine.options import MAX_THREADS
from labkit.engine.settings import LoadRequest, choose_settings
from labkit.errors import ArgumentTypeError
from labkit.gguf_file import Header
from labkit.gguf_file.preflight import preflight
from labkit.kv_cache.layers import ModelLayers, model_layers, number
from labkit.load_check.facts import facts_of
from labkit.model_info import read_model_header
from labkit.roofline.kernels import AttentionJob, Job, MatrixJob, SmallJob, time_kernels
from labkit.roofline.records import Limit, SpeedPart, SpeedPrediction
from labkit.roofline.work import SMALL_PER_LAYER, Attention, Matrix, attentions, matrices
from labkit.system import SystemProfile, cores_left_now, engine_build_or_usual, measure_read_bandwidth

_BEYOND_CACHES = 128 * 2**20  # bytes read before any is read again: more than a laptop's caches hold
_IN_CACHE = 2**22  # bytes that stay in a cache
_MOST_COLUMNS = 128  # most tokens in a timed kernel; beyond that, time grows in proportion
_UBATCH = 512


def predict_speed(
    model_path: str | Path | None = None,
    *,
    n_threads: int | None = None,
    system: SystemProfile | None = None,
    depth: int = 64,
    n_prompt: int = 512,
    n_parallel: int = 1,
    flash_attn: bool | None = None,
) -> SpeedPrediction:
    """Predict a model's prefill and decode speed on this machine's CPU without loading it.

    Parameters
    ----------
    model_path : str, Path or None
        As for `get_model_info`; only the header is read. None is the bundled model.
    n_threads : int or None
        None: those that ``system`` was measured with, or the physical cores that other programs leave to this process now.
    system : SystemProfile, optional
        From `measure_system`; its bandwidth is used instead of a new measurement.
    depth : int
        Tokens already in the context at a decode step; 64 is the mean of a benchmark of 128 tokens.
    n_prompt : int
        Length of the prompt for the predicted prefill, tokens.
    n_parallel : int
        Sequences decoded together.
    flash_attn : bool or None
        None is what `load_model` chooses.

    Returns
    -------
    SpeedPrediction
        Speeds of llama.cpp alone, and their limits.

    Raises
    ------
    ModelNotFoundError, GGUFError, ArgumentError, ArgumentTypeError
        As in `load_model`.
    LabkitError
        When the kernels could not be timed.

    Notes
    -----
    ``time = matrices + attention + small operations``, each times its count in the model. The times are measured with
    llama.cpp's kernels on matrices of the model's types and shapes, alternating between as many as the model has, or as
    exceed the caches; this takes a second or two. The roofline is the bandwidth limit alone: ``bytes / bandwidth``.

    References
    ----------
    S. Williams, A. Waterman, D. Patterson, Roofline: An Insightful Visual Performance Model, 2009.
    """
    check_int("depth", depth, 0, 2**31 - 1)
    check_int("n_prompt", n_prompt, 1, 2**31 - 1)
    check_int("n_parallel", n_parallel, 1, 256)
    if flash_attn is not None:
        check_flag("flash_attn", flash_attn)
    threads = _threads(n_threads, system)
    header = read_model_header(model_path)
    preflight(header, vocabulary=False)
    request = LoadRequest(n_ctx=_UBATCH, n_threads=threads, flash_attn=flash_attn)
    build = engine_build_or_usual()
    settings = choose_settings(request, facts_of(header), build)
    layers = model_layers(header)
    make = functools.partial(_make_pass, header, layers, flash_attn=settings.flash_attn, huge_pages=not settings.use_mmap)
    decode = make(depth, 1, n_parallel)
    prompt = make(max(n_prompt - _UBATCH, 0) // 2, min(n_prompt, _UBATCH), 1)
    jobs = [*decode.jobs(), *prompt.jobs()]
    times = time_kernels(jobs, threads) if build.version else dict.fromkeys(jobs, 0.0)
    known = None if system is None or system.bandwidth_threads != threads else system.read_bytes_per_second
    bandwidth = known or measure_read_bandwidth(threads, seconds=0.5)
    parts, prompt_parts = decode.parts(times, bandwidth), prompt.parts(times, bandwidth)
    n_bytes = sum(part.n_bytes for part in parts)
    return SpeedPrediction(
        decode_tokens_per_second=n_parallel / sum(part.predicted_s for part in parts),
        prompt_tokens_per_second=prompt.n_tokens / sum(part.predicted_s for part in prompt_parts),
        limit=_limit(parts),
        prompt_limit=_limit(prompt_parts),
        roofline_tokens_per_second=n_parallel * bandwidth / n_bytes,
        bytes_per_pass=n_bytes,
        operations_per_token=sum(part.operations for part in parts) / n_parallel,
        read_bytes_per_second=bandwidth,
        operations_per_second=_rate(prompt_parts),
        n_threads=threads,
        n_parallel=n_parallel,
        depth=depth,
        n_prompt=n_prompt,
        flash_attn=settings.flash_attn,
        parts=parts,
        prompt_parts=prompt_parts,
        assumptions=_assumptions(header, layers, bandwidth_given=known is not None, timed=bool(build.version)),
    )


def _threads(given: int | None, system: SystemProfile | None) -> int:
    if system is not None and not isinstance(system, SystemProfile):
        raise ArgumentTypeError(f"system must come from measure_system(), not {type(system).__name__}")
    if given is not None:
        return check_int("n_threads", given, 1, MAX_THREADS)
    return (system and system.bandwidth_threads) or cores_left_now()


@dataclasses.dataclass(frozen=True)
class _Pass:
    """One pass through the model: its operations, their timing jobs, and the predicted times."""

    matrices: tuple[Matrix, ...]
    attentions: tuple[Attention, ...]
    width: int
    n_layers: int
    n_tokens: int
    total_bytes: float
    flash_attn: bool
    huge_pages: bool  # for the weights

    def jobs(self) -> list[Job]:
        found: list[Job] = [job for matrix in self.matrices for job in (self._from_ram(matrix), _in_cache(matrix))]
        return [*found, *map(self._attention, self.attentions), self._small()]

    def _from_ram(self, matrix: Matrix) -> MatrixJob:
        copies = max(1, round(min(self.total_bytes, _BEYOND_CACHES) / max(matrix.n_bytes, 1)))
        columns = _columns(matrix)
        copies = min(copies, 512) if columns < _MOST_COLUMNS else 1  # with many tokens, reading the weights does not matter
        return MatrixJob(matrix.type.id, matrix.n_in, matrix.n_out, columns, copies, self.huge_pages)

    def _attention(self, attention: Attention) -> AttentionJob:
        return AttentionJob(
            n_heads=attention.n_heads,
            n_heads_kv=attention.n_heads_kv,
            key_length=attention.key_length,
            value_length=attention.value_length,
            n_cells=attention.n_cells,
            n_tokens=min(attention.n_tokens, _MOST_COLUMNS),
            flash_attn=self.flash_attn,
            n_copies=max(1, min(attention.count, _BEYOND_CACHES // max(attention.n_bytes, 1), 64)),
        )

    def _small(self) -> SmallJob:
        return SmallJob(self.width, min(self.n_tokens, _MOST_COLUMNS))

    def parts(self, times: Mapping[Job, float], bandwidth: float) -> tuple[SpeedPart, ...]:
        found = [_matrix_part(matrix, self._from_ram(matrix), times, bandwidth) for matrix in self.matrices]
        found += [_attention_part(item, self._attention(item), times, bandwidth) for item in self.attentions]
        count = SMALL_PER_LAYER * self.n_layers
        seconds = count * times[self._small()] * max(1.0, self.n_tokens / _MOST_COLUMNS)
        found.append(SpeedPart("small operations", count, 0.0, 0.0, 0.0, 0.0, seconds, "overhead"))
        return tuple(sorted(found, key=lambda part: -part.predicted_s))


def _make_pass(
    header: Header, layers: ModelLayers, depth: int, n_tokens: int, n_seq: int, *, flash_attn: bool, huge_pages: bool
) -> _Pass:
    found = matrices(header, n_tokens * n_seq, n_seq)
    return _Pass(
        matrices=found,
        attentions=attentions(layers, depth, n_tokens, n_seq),
        width=number(header, "embedding_length", 1),
        n_layers=len(layers.layers),
        n_tokens=n_tokens * n_seq,
        total_bytes=sum(matrix.n_bytes * matrix.count for matrix in found),
        flash_attn=flash_attn,
        huge_pages=huge_pages,
    )


def _columns(matrix: Matrix) -> int:
    return min(round(matrix.n_columns), _MOST_COLUMNS)


def _in_cache(matrix: Matrix) -> MatrixJob:
    """Return the job that times computation alone, with as many rows as stay in a cache."""
    rows = max(32, _IN_CACHE // matrix.type.row_bytes(matrix.n_in) // 32 * 32)
    return MatrixJob(matrix.type.id, matrix.n_in, min(rows, matrix.n_out), _columns(matrix))


def _matrix_part(matrix: Matrix, job: MatrixJob, times: Mapping[Job, float], bandwidth: float) -> SpeedPart:
    cached = _in_cache(matrix)
    groups = max(1.0, matrix.n_columns / _MOST_COLUMNS)
    return _part(
        name=f"{matrix.type.name} {matrix.n_in} x {matrix.n_out}",
        count=matrix.count,
        n_bytes=matrix.n_bytes * matrix.count,
        operations=matrix.operations,
        bandwidth=bandwidth,
        compute_s=min(times[cached] * matrix.n_out / cached.n_out, times[job]) * groups * matrix.count,
        predicted_s=times[job] * groups * matrix.count,
    )


def _attention_part(item: Attention, job: AttentionJob, times: Mapping[Job, float], bandwidth: float) -> SpeedPart:
    seconds = times[job] * max(1.0, item.n_tokens / _MOST_COLUMNS) * item.count
    return _part(
        name=f"attention over {item.n_cells:,} cells",
        count=item.count,
        n_bytes=item.n_bytes * item.count,
        operations=item.operations,
        bandwidth=bandwidth,
        compute_s=seconds,
        predicted_s=seconds,
    )


def _part(
    *, name: str, count: float, n_bytes: float, operations: float, bandwidth: float, compute_s: float, predicted_s: float
) -> SpeedPart:
    bandwidth_s = n_bytes / bandwidth
    predicted_s = predicted_s or bandwidth_s  # 0 where the kernels could not be timed
    limit: Limit = "bandwidth" if bandwidth_s >= compute_s else "compute"
    return SpeedPart(name, count, n_bytes, operations, bandwidth_s, compute_s, predicted_s, limit)


def _limit(parts: Sequence[SpeedPart]) -> Limit:
    """Return what needs most of the time: reading, computing, or overhead."""
    sums: dict[Limit, float] = {
        "bandwidth": sum(part.bandwidth_s for part in parts),
        "compute": sum(part.compute_s for part in parts),
        "overhead": sum(part.predicted_s for part in parts if part.limit == "overhead"),
    }
    return max(sums, key=lambda name: sums[name])


def _rate(parts: Sequence[SpeedPart]) -> float:
    computing = [part for part in parts if part.operations and not part.name.startswith("attention")]
    seconds = sum(part.predicted_s for part in computing)
    return sum(part.operations for part in computing) / seconds if seconds else 0.0


def _assumptions(header: Header, layers: ModelLayers, *, bandwidth_given: bool, timed: bool) -> tuple[str, ...]:
    found = [
        "llama.cpp alone, without sampling and text (which add about 1 % for a small model, less for a large one)",
        "all layers on this machine's CPU, no other load; weights already in RAM",
        (
            "matrix and attention times are measured with llama.cpp's kernels in a subprocess; bandwidth is "
            if timed
            else "llama.cpp cannot be loaded here (see labkit doctor), so every time is that of reading weights and cache "
            "alone, and the speeds are upper bounds, for prompts far above the real ones; bandwidth is "
        )
        + ("from the given profile" if bandwidth_given else "measured with NumPy's bitwise OR"),
        f"about {SMALL_PER_LAYER} small operations per layer, each as slow as a norm, product or sum of one row",
    ]
    if any("_exps." in tensor.name for tensor in header.tensors):
        found.append("tokens are spread evenly over the experts, and an expert's product is as fast as a plain one")
    if any(layer.state_width for layer in layers.layers):
        found.append("the update of the recurrent state is not included")
    return tuple(found)
