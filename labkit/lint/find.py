"""lint_settings: every trap of one way to load a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.checks import check_flag, check_int
from labkit.engine.llama_defaults import llama_settings
from labkit.engine.load_facts import facts_of
from labkit.engine.options import MAX_THREADS, check_options, check_overrides_fit
from labkit.engine.settings import choose_settings
from labkit.engine.tuned import tuned_settings
from labkit.errors import ArgumentError
from labkit.gguf_file import Header, preflight
from labkit.lint import space, threads, weights
from labkit.lint.case import Case
from labkit.lint.machine import Machine, look_around
from labkit.lint.records import SEVERITIES, LintFinding, LintReport
from labkit.model_info import read_model_header

__all__ = ["lint_settings"]

RULES: tuple[Callable[[Case], Iterator[LintFinding]], ...] = (
    space.find_unfit_cache,
    space.find_misfit,
    space.find_doubled_weights,
    space.find_logits,
    space.find_full_window,
    space.find_wide_cache,
    space.find_beyond_training,
    threads.find_many_threads,
    threads.find_few_threads,
    threads.find_missing_gpu,
    threads.find_unused_instructions,
    weights.find_fallbacks,
    weights.find_larger_than_better,
    space.find_flash_attention,
    threads.find_busy,
)


def lint_settings(
    model_path: str | Path | None = None,
    *,
    n_ctx: int | None = None,
    n_threads: int | None = None,
    n_gpu_layers: int = 0,
    devices: Sequence[Any] | None = None,
    settings: Mapping[str, Any] | str | Path | None = None,
    as_llama: bool = False,
    **kwargs: Any,
) -> LintReport:
    """Find traps in how a model would be loaded, without loading it: each with what it costs and what mends it.

    Parameters
    ----------
    model_path : str, Path or None
        As for `get_model_info`: a file, a name, or an address (of which only the header is read). None is the bundled model.
    n_ctx : int, optional
        Tokens that the context holds; None is 2,048 as for `load_model` (512 with ``as_llama``), 0 what it was trained on.
    n_threads, n_gpu_layers, devices, settings
        As for `load_model`. Devices are not connected to.
    as_llama : bool
        Look at what ``llama_cpp.Llama(model_path, …)`` would do: its defaults for all that is not given.
    **kwargs
        As for `load_model`.

    Returns
    -------
    LintReport
        The settings that the model would be loaded with, and the findings, the worst first.

    Raises
    ------
    ModelNotFoundError, GGUFError, ArgumentError, ArgumentTypeError
        As `load_model` raises them. What the engine itself would refuse is a finding.

    Notes
    -----
    A cost in bytes is what `estimate_memory_usage` says of these settings, by its formula, less what it says of the mended
    ones; from a twentieth of all that the load takes it is a warning. What would fit is `recommend_settings`' word.

    Examples
    --------
    >>> report = lint_settings(type_v="q8_0", flash_attn=False)
    >>> report.findings[0].code, report.findings[0].mend
    ('v-cache-without-flash', 'flash_attn=True')
    """
    n_gpu_layers = check_int("n_gpu_layers", n_gpu_layers, -1, 100_000, hint="; -1 means all layers")
    n_ctx = None if n_ctx is None else check_int("n_ctx", n_ctx, 0, 2**31 - 1)
    if n_threads is not None:
        n_threads = check_int("n_threads", n_threads, 1, MAX_THREADS, hint="; None means this machine's physical cores")
    as_llama = check_flag("as_llama", as_llama)
    header = read_model_header(model_path)
    preflight(header, vocabulary=False)
    tuned = _tuned(settings, header)
    n_threads = n_threads or tuned.pop("n_threads", None)
    case = _case(
        header,
        look_around(),
        n_ctx,
        n_threads,
        n_gpu_layers,
        devices,
        check_options({**tuned, **kwargs}),
        as_llama=as_llama,
        was_tuned=bool(tuned),
    )
    found = [finding for rule in RULES for finding in rule(case)]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return LintReport(header.source, "llama_cpp.Llama" if as_llama else "load_model", case.settings, tuple(found))


def _tuned(settings: Mapping[str, Any] | str | Path | None, header: Header) -> dict[str, Any]:
    """Return the arguments of load_model that tune found, checked as load_model checks them."""
    if settings is None:
        return {}
    if not header.paths:
        raise ArgumentError(f"{header.source} lies on a server, and what tune found belongs to a file: leave settings out")
    tuned = tuned_settings(settings, header.paths[0])
    if "n_threads" in tuned:
        check_int("settings['n_threads']", tuned["n_threads"], 0, MAX_THREADS)
    return tuned


def _case(
    header: Header,
    machine: Machine,
    n_ctx: int | None,
    n_threads: int | None,
    n_gpu_layers: int,
    devices: Sequence[Any] | None,
    options: dict[str, Any],
    *,
    as_llama: bool,
    was_tuned: bool,
) -> Case:
    facts = facts_of(header)
    check_overrides_fit(options.get("kv_overrides", {}), facts)
    effective = n_gpu_layers if devices or machine.build.has_gpu else 0
    layers_here = 0 if devices else effective  # as the estimate has it: what lies on devices decides nothing on this machine
    tokens, threads_used = 2048 if n_ctx is None else n_ctx, n_threads or machine.physical
    settings = choose_settings(facts, machine.build, tokens, threads_used, layers_here, options).replace(
        n_gpu_layers=effective
    )
    if as_llama:
        settings = llama_settings(facts, n_ctx, n_threads, effective, options)
    names = ("n_batch", "n_ubatch", "type_k", "type_v", *(("flash_attn",) if was_tuned else ()))  # tune measured it here
    sizes: dict[str, Any] = {name: options[name] for name in names if name in options}
    preferred = choose_settings(facts, machine.build, settings.n_ctx, settings.n_threads, layers_here, sizes)
    return Case(header, settings, preferred, options, n_gpu_layers, devices, as_llama, machine)
