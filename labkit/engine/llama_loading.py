"""Llama's constructor, called in the model's thread, with parameters that it cannot set, and one clear error on failure."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.checks import one_line
from labkit.engine.llama_methods import LlamaMethods
from labkit.engine.native import AbortFlag, C, EngineLog, cpu_overrides, progress_callback, safe_construction
from labkit.engine.stepping import free_cores
from labkit.engine.tokenizer import Tokenizer
from labkit.errors import LabkitError, ModelLoadError
from labkit.thread_control import ThreadController

if TYPE_CHECKING:
    from labkit.devices.borrow import ModelDevices

_SLOWEST_S, _SLOWEST_BYTES_PER_S = 0.05, 1e9  # a token on the slowest conceivable machine: more is contention


class NativeModel(NamedTuple):
    """``model.native``: use it in the model's thread only, in a function passed to ``model.compute``."""

    ctx: Any
    model: Any
    vocab: Any
    tokenizer: Tokenizer
    flag: AbortFlag  # ends the running computation
    n_vocab: int
    has_state: bool  # layers have a recurrent state, which cannot return to an earlier token
    has_window: bool  # layers keep only a sliding window, which cannot return far

    @property
    def memory(self) -> Any:
        """The context's cache; None for a model without one, such as BERT."""
        return C.llama_get_memory(self.ctx)


class LoadingLlama(LlamaMethods):
    """A ``llama_cpp.Llama`` that `_load` loads, with llama.cpp's pointers in ``native``."""

    native: NativeModel
    _devices: ModelDevices | None
    _log: EngineLog
    _load_log: str
    _progress: Callable[[float], None] | None
    _progress_error: BaseException | None

    def _load(self, path: Path, options: Mapping[str, Any]) -> None:
        chosen = self.settings
        free_cores()  # first sample of the CPU load: the next one covers the time of loading
        values = {**options, **chosen.llama_arguments(), "verbose": self._log.echo}
        on_cpu = values.pop("override_tensor", ())
        self._tensor_overrides = cpu_overrides(on_cpu) if on_cpu else None  # kept: llama.cpp holds only its address
        if self._devices is not None:
            self._native_devices = self._devices.native()
        try:
            with safe_construction():
                super().__init__(str(path), **values)
            if self.lora_path and not self._lora_adapter:
                raise RuntimeError("it is not a LoRA adapter for this model")
            self._worker.flag.attach(self._ctx.ctx)
            self._tokenizer = Tokenizer(self._model.model, self._model.vocab)
            self.native = self._native()
        except LabkitError:
            raise
        except Exception as error:  # llama-cpp-python raises many types
            if isinstance(self._progress_error, Exception):
                reason = one_line(f"{type(self._progress_error).__name__}: {self._progress_error}")
                raise ModelLoadError(f"loading was ended by its progress function: {reason}") from self._progress_error
            if self._progress_error is not None:
                raise self._progress_error from None
            reason = self._log.last_error() or one_line(error) or type(error).__name__
            raise ModelLoadError(f"the engine could not load {one_line(path.name)}: {reason}") from error
        self._vocab_only = bool(self.model_params.vocab_only)
        has_encoder = bool(C.llama_model_has_encoder(self._model.model))
        self._decodes = C.llama_get_memory(self._ctx.ctx) is not None and not has_encoder
        self._embeds = self._decodes or not (has_encoder and C.llama_model_has_decoder(self._model.model))
        if chosen.adapt_threads:
            first_s = _SLOWEST_S + int(C.llama_model_size(self._model.model)) / _SLOWEST_BYTES_PER_S
            self._threads = ThreadController(chosen.n_threads, chosen.n_threads_batch, first_s)
        self._load_log = self._log.text()
        self._log.clear()

    def _native(self) -> NativeModel:
        model, vocab = self._model.model, self._model.vocab
        return NativeModel(
            ctx=self._ctx.ctx,
            model=model,
            vocab=vocab,
            tokenizer=Tokenizer(model, vocab),  # the worker's own: a buffer is not shared
            flag=self._worker.flag,
            n_vocab=int(C.llama_vocab_n_tokens(vocab)),
            has_state=bool(self._is_recurrent or self._is_hybrid),
            has_window=C.llama_model_n_swa(model) > 0 and not self.settings.swa_full,
        )

    @property
    def model_params(self) -> Any:
        """The native model parameters; Llama's constructor fills them in, and this adds what it cannot set."""
        return self._model_params

    @model_params.setter
    def model_params(self, params: Any) -> None:
        self._model_params = params
        self._progress_callback = progress_callback(self._report_progress)
        params.progress_callback = self._progress_callback
        if self._devices is not None:
            params.devices = ctypes.cast(self._native_devices, ctypes.c_void_p)
        if self._tensor_overrides is not None:
            params.tensor_buft_overrides = ctypes.cast(self._tensor_overrides, ctypes.c_void_p)

    @property
    def context_params(self) -> Any:
        """The native context parameters; Llama's constructor fills them in, and this adds what it cannot set."""
        return self._context_params

    @context_params.setter
    def context_params(self, params: Any) -> None:
        self._context_params = params
        params.n_outputs_max = self.settings.n_outputs_max

    def _drop_progress_callback(self) -> None:
        """Drop the callback: it refers to this model, which would stay in memory until a garbage collection."""
        if hasattr(self, "_progress_callback"):
            self._model_params.progress_callback = type(self._progress_callback)()
            del self._progress_callback

    def _report_progress(self, fraction: float) -> bool:
        try:
            if self._progress is not None:
                self._progress(fraction)
        except BaseException as error:  # noqa: BLE001, RUF100  # it cannot pass through C; `_load` raises it
            self._progress_error = error
            return False
        return not self._worker.is_cancelled
