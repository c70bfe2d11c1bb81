"""load_model: load a model from a path, with checked arguments."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.checks import check_flag, check_int
from labkit.engine.model import Model
from labkit.engine.options import MAX_THREADS, check_overrides_fit, check_request
from labkit.engine.settings import choose_settings, refuse_unfit
from labkit.errors import LabkitWarning
from labkit.load_check.facts import sound_file
from labkit.models import resolve_model
from labkit.system import engine_build

if TYPE_CHECKING:
    from labkit.devices import ServedDevice

_warned: set[str] = set()


def load_model(
    model_path: str | Path | None = None,
    n_ctx: int = 2048,
    n_threads: int | None = None,
    n_gpu_layers: int = 0,
    *,
    devices: Sequence[str | ServedDevice] | None = None,
    settings: Mapping[str, Any] | str | Path | None = None,
    progress: bool | Callable[[float], None] = False,
    **kwargs: Any,
) -> Model:
    """Load a model with settings that suit this machine.

    Parameters
    ----------
    model_path : str, Path or None
        A GGUF file (any part of a split model), a name from `list_models`, or what `fetch_model` was given; None is the
        bundled SmolLM2-135M-Instruct.
    n_ctx : int
        Size of the context in tokens, prompt and answer together; rounded up to 256. 0 is the size used in training.
    n_threads : int or None
        Threads to compute with. None means up to the physical cores that this process may use (respecting affinity and
        container quota), and fewer while other programs need them. A number is kept, whatever else runs; beyond the logical
        cores, threads would only wait for one another, so no more than those compute.
    n_gpu_layers : int
        Layers to put on a GPU, or on ``devices``; -1 means all. Without either, this warns once and runs on the CPU.
    devices : list of str or ServedDevice, or None
        Devices for the layers instead of this machine's GPUs: addresses "host:port" of ``labkit device serve``, results
        of `start_device`, or llama.cpp's names of GPUs ("CUDA0"). Several share the layers evenly, in this order, unless
        ``tensor_split`` is given.
    settings : mapping, str or Path, optional
        The result of `tune`, its JSON file, or its goal (``"latency"``, ``"throughput"``, ``"memory"``) for its stored
        result. Other arguments take precedence.
    progress : bool or callable
        True shows a progress bar on stderr; a function is called with the fraction loaded, 0 to 1.
    **kwargs
        As for ``llama_cpp.Llama``; cache types also by name, ``type_k="q8_0"``. ``draft_model`` (speculative decoding, such
        as llama-cpp-python's ``LlamaPromptLookupDecoding``) is used by Llama's own methods, such as ``create_completion``.
        ``override_tensor="exps=CPU"`` keeps the tensors whose names match on the CPU, such as a mixture's experts, while
        their layers are on a device; the text is that of llama.cpp's ``--override-tensor``.

    Returns
    -------
    Model
        Use it in a ``with`` block, or ``close()`` it.

    Raises
    ------
    ModelNotFoundError
        If there is no such file or name.
    GGUFError
        If the file is not valid GGUF, or has values that would crash the engine.
    ModelLoadError
        If the engine refuses the file (the message has the engine's reason), or a device is unreachable or lost.
    ArgumentError, ArgumentTypeError
        If an argument is wrong.

    Notes
    -----
    Defaults: flash attention only where it makes decoding faster; the file is mapped unless this CPU needs a repacked copy
    of the weights; one row of logits; small sliding-window caches. ``model.settings`` has all settings and their reasons.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model:
    ...     model.settings.n_ctx
    256
    """
    path = Path(os.path.abspath(resolve_model(model_path)))  # noqa: PTH100 - links stay; another folder may become the current
    if settings is not None:
        from labkit.tuned_settings import tuned_settings

        tuned = tuned_settings(settings, path)
        given = check_int("settings['n_threads']", tuned.pop("n_threads", None) or 0, 0, MAX_THREADS) or None
        n_threads = given if n_threads is None else n_threads
        kwargs = {**tuned, **kwargs}
    request = check_request(n_ctx, n_threads, n_gpu_layers, kwargs)
    facts = sound_file(path, vocab_only=bool(request.others.get("vocab_only")))
    check_overrides_fit(request.others.get("kv_overrides", {}), facts)
    build = engine_build()
    borrowed = None
    if devices is not None:
        from labkit.devices.borrow import borrow_devices

        borrowed = borrow_devices(devices, build)
    try:
        if borrowed is None and request.n_gpu_layers != 0 and not build.has_gpu:
            _warn_once(
                "gpu",
                f"n_gpu_layers={n_gpu_layers} needs a GPU, and llama.cpp has none here ({build.why_no_gpu}): "
                "everything runs on the CPU",
            )
            request = request._replace(n_gpu_layers=0)
        chosen = choose_settings(request, facts, build, borrowed)
        refuse_unfit(facts, chosen)
        for sentence in chosen.warnings:
            _warn_once(f"{path}: {sentence}", sentence)
        others = dict(request.others)
        if borrowed is not None:
            others = {"tensor_split": [1.0] * borrowed.n_devices, **others}
            if chosen.n_gpu_layers == 0:
                borrowed.set_aside()
        with _reporting(progress, path) as report:
            return Model(path, chosen, facts, others, progress=report, devices=borrowed)
    except BaseException:
        if borrowed is not None and not borrowed.in_use:  # otherwise the model releases them
            borrowed.release()
        raise


@contextlib.contextmanager
def _reporting(progress: bool | Callable[[float], None], path: Path) -> Iterator[Callable[[float], None] | None]:
    """Yield the function that is called with the fraction loaded."""
    if callable(progress) or not check_flag("progress", progress):
        yield progress if callable(progress) else None
        return
    from tqdm.auto import tqdm

    with tqdm(total=100, desc=f"loading {path.name}", unit="%", leave=False) as bar:

        def advance(fraction: float) -> None:
            bar.update(int(fraction * 100) - bar.n)

        yield advance


def _warn_once(key: str, sentence: str) -> None:
    if key not in _warned:
        _warned.add(key)
        warnings.warn(sentence, LabkitWarning, stacklevel=3)
