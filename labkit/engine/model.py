"""Model: ``llama_cpp.Llama`` with its own thread, a safe ``close()``, and settings that suit a laptop."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from labkit.engine.generation import Generation, GenerationRequest
from labkit.engine.job import Job
from labkit.engine.llama_loading import LoadingLlama
from labkit.engine.native import C, EngineLog, give_back_memory, refuse_while_loading
from labkit.engine.prompt_cache import PromptCache
from labkit.engine.results import GenerationReport, TextChunk
from labkit.engine.settings import ModelSettings
from labkit.engine.stepping import CancelledError, Stepper, steps
from labkit.engine.tokenizer import Tokenizer
from labkit.engine.worker import Worker
from labkit.errors import ArgumentTypeError, GenerationError, ModelClosedError, ModelLoadError
from labkit.kv_cache import PROMPT_STEP
from labkit.load_check.facts import LoadFacts
from labkit.system import cores_left_now, engine_build
from labkit.thread_control import Phase, ThreadController

if TYPE_CHECKING:
    from labkit.devices.borrow import ModelDevices

T = TypeVar("T")

_open_models: weakref.WeakSet[Model] = weakref.WeakSet()


class Model(LoadingLlama):
    """A loaded model: what `load_model` returns.

    It is a ``llama_cpp.Llama``, so everything that llama-cpp-python documents works, from any thread: each model has its
    own thread, and calls wait for one another. Use it in a ``with`` block, or ``close()`` it.

    Attributes
    ----------
    model_path : str
        The file.
    native : NativeModel
        llama.cpp's pointers, for computations in the model's thread.
    facts : LoadFacts
        The facts of its header that loading depends on.
    settings : ModelSettings
        Its settings and their reasons.
    load_log : str
        The engine's own log of this load.
    last_generation : GenerationReport or None
        Figures of the last generation: tokens, seconds, seed.
    """

    settings: ModelSettings
    facts: LoadFacts
    last_generation: GenerationReport | None

    def __init__(
        self,
        path: Path | None = None,
        settings: ModelSettings | None = None,
        facts: LoadFacts | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        progress: Callable[[float], None] | None = None,
        devices: ModelDevices | None = None,
    ) -> None:
        self._closed = True  # until there is something to free
        if not isinstance(path, Path) or settings is None or facts is None or options is None:
            raise ArgumentTypeError("a Model is made by load_model(…): model = load_model(path, n_ctx=2048)")
        refuse_while_loading()
        self._ready = False
        self._close_lock = threading.Lock()
        self._vocabulary_lock = threading.RLock()
        self._vocabulary_holder: int | None = None
        self.settings, self.facts, self.last_generation = settings, facts, None
        self._cache = PromptCache(step_of(settings))
        self._devices = devices
        self.before_close: list[Callable[[], object]] = []  # called in the model's thread: what else is to be freed
        self._threads: ThreadController | None = None
        self._log = EngineLog(echo=bool(options.get("verbose", False)), renames={} if devices is None else devices.renames)
        self._worker = Worker(self._log, devices)
        self._closed = False
        self._tokenizer: Tokenizer | None = None
        self._progress = progress
        self._progress_error: BaseException | None = None
        try:
            if devices is not None:
                devices.watch(self._worker.lose)
            self._worker.call(self._load, path, options)
        except BaseException as error:
            self.close()
            if self._worker.lost is not None and isinstance(error, Exception):
                raise ModelLoadError(
                    f"{self._worker.lost} while the model was loading: start it again and load the model again"
                ) from error
            raise
        finally:
            self._progress = self._progress_error = None
            self._drop_progress_callback()
        self._ready = True
        _open_models.add(self)

    # -- what a caller sees --------------------------------------------------------------------------------------

    @property
    def load_log(self) -> str:
        """The engine's own log of this load."""
        return self._load_log

    @property
    def prompt_step(self) -> int:
        """The number of prompt tokens that one call computes."""
        return self._cache.step

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def cancel(self) -> bool:
        """Cancel the running generation or prefill, from any thread; return whether there was one.

        The waiting caller gets the text generated so far, and the model can be used at once.
        """
        return False if self._closed else self._worker.cancel()

    def close(self) -> None:
        """Cancel running calls and free the model's memory; safe to call twice, from any thread, in any state."""
        self._close(self._free)

    def _close(self, free: Callable[[], None]) -> None:
        if getattr(self, "_closed", True):
            return
        if self._worker.pid != os.getpid():  # a forked child has the memory, but not the threads to free it with
            self._closed = True
            return
        if self._vocabulary_holder == threading.get_ident():
            raise GenerationError("close() was called while vocabulary() is held in this thread: leave its with block first")
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        self._worker.stop(free)

    def _free(self) -> None:
        with self._vocabulary_lock:
            if self._tokenizer is not None:
                self._tokenizer.wait()
            self._tokenizer = None
            self._sampler = None
            for free in self.before_close:
                free()
            try:
                if hasattr(self, "_stack"):
                    super().close()
                    give_back_memory()
            finally:
                if self._devices is not None:
                    self._devices.release()

    def _disown(self) -> None:
        """Never free the native memory: the process ends, or is a forked child without the devices' threads that answer."""
        for name in ("_ctx", "_model", "_batch"):
            if hasattr(self, name):
                getattr(self, name)._exit_stack.pop_all()

    def __enter__(self) -> Model:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"n_ctx={self.settings.n_ctx:,}, n_threads={self.settings.n_threads}"
        return f"<Model {Path(getattr(self, 'model_path', '?')).name}: {state}>"

    def __reduce__(self) -> Any:
        raise ArgumentTypeError(
            "a loaded model cannot be copied or sent to another process: pass model.model_path and call load_model there"
        )

    def __getstate__(self) -> Any:
        return self.__reduce__()

    # -- generating ----------------------------------------------------------------------------------------------

    def compute(self, function: Callable[[Job[T]], T]) -> T:
        """Run a function in this model's thread; Ctrl-C, `cancel` and `close` end it."""
        self._check_open()
        self._refuse_from_inside()
        job: Job[T] = Job(lambda job: self._compute(job, function))
        return self._worker.run(job)

    def stream_compute(self, function: Callable[[Job[Any]], None]) -> tuple[Iterator[Any], Callable[[], object]]:
        """Return an iterator that runs a computation when it is read, and a function that cancels it from any thread.

        The iterator yields what ``function`` puts into its job's ``items``.
        """
        job: Job[None] = Job(lambda job: self._compute(job, function))

        def iterate() -> Iterator[Any]:
            self._check_open()
            self._refuse_from_inside()
            yield from self._worker.iterate(job)

        return iterate(), lambda: self._worker.cancel(job)

    def steps(self, job: Job[Any], *, pin: int | None = None, ctx: Any = None) -> contextlib.AbstractContextManager[Stepper]:
        """Return a `Stepper` for this model's context, or for a second one with steps of several tokens; in its thread."""
        native = self.native
        n_batch_threads = pin or self.n_threads_batch
        n_threads = pin or self.n_threads if ctx is None else n_batch_threads
        control = None if pin else self._threads
        # A step that was ended early is repeated, which a state, a window (of several sequences) or devices do not allow.
        fixed = native.has_state or (ctx is not None and native.has_window) or self.settings.n_gpu_layers != 0
        flag = None if fixed else native.flag
        return steps(native.ctx if ctx is None else ctx, job, n_threads, n_batch_threads, control, flag)

    def threads_to_keep(self) -> int | None:
        """Return the threads for a measurement: the cores free now, or None if the model's number is fixed."""
        return min(self.settings.n_threads, cores_left_now()) if self.settings.adapt_threads else None

    def new_phase(self) -> Phase | None:
        """Return a phase for steps other than decode and prefill; None if the number of threads is fixed."""
        control = self._threads
        return None if control is None else Phase(control.prefill.n_max, control.prefill.n_threads)

    def _compute(self, job: Job[T], function: Callable[[Job[T]], T]) -> T:
        self._refuse_unless_it_generates()
        try:
            return function(job)
        except CancelledError:
            self._after_cancel()
            raise

    def _refuse_unless_it_generates(self) -> None:
        self._refuse_without_weights()
        if self.context_params.embeddings:
            raise GenerationError("this model was loaded with embedding=True: load it without embedding to generate text")
        self._refuse_without_decoder()

    def _refuse_from_inside(self) -> None:
        if self._worker.is_here:
            raise GenerationError("a callback of this model cannot use it, because a computation is running")

    def run_generation(self, job: Job[Any], request: GenerationRequest, emit: Callable[[TextChunk], None]) -> None:
        """Generate, in this model's thread; ``emit`` gets the chunks."""
        n_reused = self.prepare_memory(request.prompt, chat=request.is_chat)
        try:
            with self.steps(job) as steps:
                generation = Generation(steps, self.native.tokenizer, self._cache.step, request)
                report = generation.run(job, emit, n_reused)
            self._cache.add_prompt(request.prompt[n_reused:])
            self._cache.add_generated(report.token_ids[: generation.n_decoded])
        except BaseException:
            self.clear_memory()
            raise
        if report.finish_reason == "cancelled":
            self.clear_memory()
            if self._closed:
                raise ModelClosedError("this model was closed while it generated: load it again with load_model(…)")
        self.last_generation = report

    def prepare_memory(self, prompt: list[int], *, chat: bool = False) -> int:
        """Keep the prompt's tokens that are already in the cache; return their number."""
        same = self._cache.reusable(prompt, chat=chat) if self.n_tokens == 0 else 0
        goes_on = same == len(self._cache.tokens)  # then nothing is cut, which a recurrent state or a window does not allow
        if same and not goes_on:
            may_cut = not (self.native.has_state or C.llama_model_n_swa(self.native.model))
            same = same if may_cut and C.llama_memory_seq_rm(self.native.memory, 0, same, -1) else 0
        if not same:
            self.clear_memory()
        self._cache.cut(same)
        self.n_tokens = 0
        return same


def check_model(model: Any) -> Model:
    """Return a model from `load_model`; anything else is an ArgumentTypeError."""
    if not isinstance(model, Model):
        raise ArgumentTypeError(f"model must come from load_model(…), not {type(model).__name__}: model = load_model()")
    return model


def step_of(settings: ModelSettings) -> int:
    """Return the number of prompt tokens that one call computes.

    Each piece reads the weights once; on a CPU, 64 tokens are enough to amortize that (0.96 of the speed of 128, measured
    with the bundled model). In smaller pieces, the threads adapt more often and more of a prompt can be reused. A GPU needs
    as many as fit.
    """
    return settings.n_batch if settings.n_gpu_layers else min(PROMPT_STEP, settings.n_ubatch)


@atexit.register
def _close_all() -> None:
    """End the models' threads. The end of the process frees their memory, in less time, unless it is a device's."""
    models = list(_open_models)
    has_gpu = bool(models) and engine_build().has_gpu
    for model in models:
        model._close(model._free if has_gpu or model._devices is not None else model._disown)


def _after_fork() -> None:
    for model in list(_open_models):
        if model._devices is not None:
            model._disown()


if hasattr(os, "register_at_fork"):
    # Weak: otherwise this function, its module and all that it imported stay until the interpreter's very end (4 ms more).
    os.register_at_fork(after_in_child=weakref.proxy(_after_fork))
