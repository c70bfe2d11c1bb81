"""load_model: a path in, a model that can be used safely out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.checks import check_flag, check_int
from labkit.engine.load_facts import sound_file
from labkit.engine.model import Model
from labkit.engine.options import MAX_THREADS, check_options, check_overrides_fit
from labkit.engine.settings import ModelSettings, choose_settings, refuse_unfit
from labkit.errors import LabkitWarning
from labkit.models import resolve_model
from labkit.system import engine_build

if TYPE_CHECKING:
    from labkit.devices import ServedDevice
    from labkit.devices.borrow import ModelDevices
    from labkit.system import EngineBuild

__all__ = ["load_model"]

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
    """Load a model and choose settings that suit this machine.

    Parameters
    ----------
    model_path : str, Path or None
        A GGUF file, or a name that `list_models` knows; None is the bundled SmolLM2-135M-Instruct.
    n_ctx : int
        Tokens that the context holds, prompt and answer together; rounded up to 256. 0 is what the model was trained on.
    n_threads : int or None
        Threads to compute with. None is up to the physical cores that this process may use (affinity and container quota
        count), and fewer while other programs need them; a number is kept as given.
    n_gpu_layers : int
        Layers to put on a GPU, or on ``devices``; -1 is all. Without either this warns once and runs on the CPU.
    devices : list of str or ServedDevice, or None
        Where the layers go instead of this machine's GPUs: addresses "host:port" of ``labkit device serve``, what
        `start_device` gave, names of GPUs as llama.cpp has them ("CUDA0"). Several share the layers evenly, in this order,
        unless ``tensor_split`` says otherwise.
    settings : mapping, str or Path, optional
        What `tune` found, its JSON file, or its goal (``"latency"``, ``"throughput"``, ``"memory"``) for what it remembered
        of this model. What is given beside it counts more.
    progress : bool or callable
        True shows a bar on stderr; a function gets the fraction loaded, 0 to 1.
    **kwargs
        As for ``llama_cpp.Llama``; the cache's types also by name, ``type_k="q8_0"``. ``draft_model`` (speculative decoding,
        such as llama-cpp-python's ``LlamaPromptLookupDecoding``) serves Llama's own methods, such as ``create_completion``.

    Returns
    -------
    Model
        Use it in a ``with`` block, or ``close()`` it.

    Raises
    ------
    ModelNotFoundError
        No such file or name.
    GGUFError
        The file is no sound GGUF, or holds values that would end the process in the engine.
    ModelLoadError
        The engine refused it; the message carries the engine's own reason. Or a device cannot be reached, or was lost.
    ArgumentError, ArgumentTypeError
        A wrong argument.

    Notes
    -----
    Chosen unless given: flash attention only where it makes decoding faster; the file mapped unless this CPU keeps a second
    copy of the weights; one row of logits; sliding-window caches at their small size. ``model.settings`` says what and why.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model:
    ...     model.settings.n_ctx
    256
    """
    n_ctx = check_int("n_ctx", n_ctx, 0, 2**31 - 1)
    n_gpu_layers = check_int("n_gpu_layers", n_gpu_layers, -1, 100_000, hint="; -1 means all layers")
    if n_threads is not None:
        n_threads = check_int("n_threads", n_threads, 1, MAX_THREADS, hint="; None means this machine's physical cores")
    path = resolve_model(model_path)
    if settings is not None:
        from labkit.engine.tuned import tuned_settings

        tuned = tuned_settings(settings, path)
        n_threads = n_threads or check_int("settings['n_threads']", tuned.pop("n_threads", None) or 0, 0, MAX_THREADS)
        kwargs = {**tuned, **kwargs}
    options = check_options(kwargs)
    facts = sound_file(path)
    check_overrides_fit(options.get("kv_overrides", {}), facts)
    build = engine_build()
    borrowed = None if devices is None else _borrow(devices, build)
    try:
        if borrowed is None and n_gpu_layers != 0 and not build.has_gpu:
            _warn_once(
                "gpu",
                f"n_gpu_layers={n_gpu_layers} was asked for, but this llama.cpp was built without a GPU backend: "
                "everything runs on the CPU",
            )
            n_gpu_layers = 0
        chosen = choose_settings(facts, build, n_ctx, n_threads or None, n_gpu_layers, options, borrowed)
        refuse_unfit(facts, chosen)
        for sentence in chosen.warnings:
            _warn_once(f"{path}: {sentence}", sentence)
        return _load(path, chosen, options, progress, borrowed)
    except BaseException:
        if borrowed is not None and not borrowed.in_use:  # or else the model gives them back
            borrowed.release()
        raise


def _borrow(devices: Any, build: EngineBuild) -> ModelDevices:
    from labkit.devices.borrow import borrow_devices

    return borrow_devices(devices, build)


def _load(
    path: Path,
    settings: ModelSettings,
    options: dict[str, Any],
    progress: bool | Callable[[float], None],
    borrowed: ModelDevices | None,
) -> Model:
    if borrowed is not None:
        options = {"tensor_split": [1.0] * borrowed.n_devices, **options}
        if settings.n_gpu_layers == 0:
            borrowed.set_aside()
    if callable(progress):
        return Model(path, settings, options, progress=progress, devices=borrowed)
    if not check_flag("progress", progress):
        return Model(path, settings, options, devices=borrowed)
    from tqdm.auto import tqdm

    with tqdm(total=100, desc=f"loading {path.name}", unit="%", leave=False) as bar:

        def advance(fraction: float) -> None:
            bar.update(int(fraction * 100) - bar.n)

        return Model(path, settings, options, progress=advance, devices=borrowed)


def _warn_once(key: str, sentence: str) -> None:
    if key not in _warned:
        _warned.add(key)
        warnings.warn(sentence, LabkitWarning, stacklevel=3)
