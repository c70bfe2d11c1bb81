"""Guards around ``llama_cpp.Llama``'s own methods: the right thread, an open model, labkit's errors."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.checks import one_line
from labkit.engine.job import LockstepJob
from labkit.engine.native import C, Llama, LlamaGrammar, LlamaState
from labkit.engine.prompt_cache import PromptCache
from labkit.engine.sampler import refuse_unknown_tokens, sample_allowed
from labkit.engine.settings import ModelSettings
from labkit.engine.stepping import set_threads
from labkit.engine.tokenizer import Tokenizer
from labkit.engine.worker import Worker
from labkit.errors import ArgumentError, ArgumentTypeError, GenerationError, LabkitError, ModelClosedError
from labkit.thread_control import ThreadController

# Every public method of Llama is in one of these; a test fails when a new one appears.
COMPUTING = (
    "__call__", "create_chat_completion", "create_chat_completion_openai_v1", "create_completion", "create_embedding",
    "embed", "eval", "generate", "load_state", "reset", "sample", "save_state", "set_cache", "set_seed",
)  # fmt: skip
READING = (
    "detokenize", "n_ctx", "n_embd", "n_vocab", "pooling_type", "token_bos", "token_eos", "token_nl", "tokenize",
    "tokenizer",
)  # fmt: skip
READING_PROPERTIES = ("ctx", "model", "eval_tokens", "eval_logits")
_TOKENS = ("eval", "generate")
_PROMPTS = ("__call__", "create_completion")


def _computing(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run one of Llama's methods in the model's own thread."""

    @functools.wraps(method)
    def guarded(self: LlamaMethods, *args: Any, **kwargs: Any) -> Any:
        if self._worker.is_here:
            return method(self, *args, **kwargs)
        self._check_open()
        with _as_labkit_errors(method):
            result = self._worker.call(self._call_llama, method, args, kwargs)
        return _in_step(self, method, result) if isinstance(result, types.GeneratorType) else result

    return guarded


def _in_step(model: LlamaMethods, method: Callable[..., Any], generator: Iterator[Any]) -> Iterator[Any]:
    def iterate() -> Iterator[Any]:
        model._check_open()
        job = LockstepJob(lambda: model._pump(generator, method.__name__))
        with _as_labkit_errors(method):
            yield from model._worker.iterate(job)
        if job.cancelled:
            model._check_open()

    return iterate()


def _reading(method: Callable[..., Any]) -> Callable[..., Any]:
    """Guard a method of Llama that reads only constant data: refuse it after `close`."""

    @functools.wraps(method)
    def guarded(self: LlamaMethods, *args: Any, **kwargs: Any) -> Any:
        if not self._ready:
            return method(self, *args, **kwargs)
        # In the worker's own thread nothing can be freed during the call, and the lock's holder may wait for this thread.
        inside = contextlib.nullcontext(self._tokenizer) if self._worker.is_here else self.vocabulary()
        with inside as tokenizer, _as_labkit_errors(method):
            first = args[0] if args else kwargs.get("tokens", kwargs.get("text", ()))
            if method.__name__ == "detokenize" and tokenizer is not None:
                tokenizer.check_tokens(first)
            if method.__name__ == "tokenize" and tokenizer is not None and isinstance(first, bytes):
                return tokenizer.with_large_stack(lambda: method(self, *args, **kwargs), first)
            return method(self, *args, **kwargs)

    return guarded


@contextlib.contextmanager
def _as_labkit_errors(method: Callable[..., Any]) -> Iterator[None]:
    """Convert llama-cpp-python's exceptions to labkit's errors, which are subclasses of the same built-ins."""
    try:
        yield
    except LabkitError:
        raise
    except Exception as error:  # llama-cpp-python raises many types
        kind: type[LabkitError] = GenerationError
        if isinstance(error, TypeError):
            kind = ArgumentTypeError
        elif isinstance(error, (ValueError, AssertionError, LookupError)):
            kind = ArgumentError
        reason = one_line(error) or type(error).__name__
        raise kind(f"llama-cpp-python's {method.__name__} failed: {reason}") from error


def check_call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Refuse invalid arguments of Llama's methods: unknown tokens, an empty text to embed, an incomplete state."""
    first = args[0] if args else next((kwargs[key] for key in ("tokens", "prompt", "input", "state") if key in kwargs), None)
    if name in _TOKENS or (name in _PROMPTS and isinstance(first, list)):
        if not isinstance(first, Sequence) or isinstance(first, (str, bytes)):
            raise ArgumentTypeError(f"{name} takes a list of token ids, not {type(first).__name__}: model.tokenize(b'text')")
        tokenizer.check_tokens(first)
    if name in ("embed", "create_embedding"):
        _check_texts(name, first)
    if name == "load_state":
        _check_state(first)
    if isinstance(kwargs.get("logit_bias"), Mapping):
        tokenizer.check_tokens(kwargs["logit_bias"])


def _check_texts(name: str, texts: Any) -> None:
    for text in [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else [None]:
        if not isinstance(text, str):
            raise ArgumentTypeError(f"{name} takes a text or a list of texts, not {type(texts).__name__}")
        if not text:
            raise ArgumentError(f"{name} was given an empty text, which has no tokens to embed: leave it out")
    if not texts:
        raise ArgumentError(f"{name} was given no text to embed")


def _check_state(state: Any) -> None:
    if not isinstance(state, LlamaState):
        raise ArgumentTypeError(f"load_state needs the result of model.save_state(), not {type(state).__name__}")
    if len(state.llama_state) != state.llama_state_size:
        raise ArgumentError("this state is incomplete: save a new one with model.save_state()")


class LlamaMethods(Llama):
    """``llama_cpp.Llama`` with each method in the model's own thread, and refused where it would crash the process."""

    settings: ModelSettings
    _ready: bool
    _closed: bool
    _decodes: bool
    _embeds: bool
    _vocab_only: bool
    _cache: PromptCache
    _tokenizer: Tokenizer | None
    _worker: Worker
    _threads: ThreadController | None
    _vocabulary_lock: threading.RLock
    _vocabulary_holder: int | None

    @contextlib.contextmanager
    def vocabulary(self) -> Iterator[Tokenizer]:
        """Hold the tokenizer: it can be used during a generation, but not after `close`."""
        self._check_open()
        with self._vocabulary_lock:
            self._check_open()
            if self._tokenizer is None:
                raise ModelClosedError("this model is still loading")
            outer, self._vocabulary_holder = self._vocabulary_holder, threading.get_ident()
            try:
                yield self._tokenizer
            finally:
                self._vocabulary_holder = outer

    def _check_open(self) -> None:
        if self._closed:
            name = one_line(Path(getattr(self, "model_path", "model")).name)
            raise ModelClosedError(f"this model ({name}) was closed: load it again with load_model(…)")
        if self._worker.pid != os.getpid():
            raise ModelClosedError(
                "this model was loaded in another process, and a forked child cannot use it: load it here, "
                "and start processes with multiprocessing's 'spawn' method"
            )
        self._worker.refuse_if_lost()

    def clear_memory(self) -> None:
        """Leave the cache empty."""
        memory = C.llama_get_memory(self._ctx.ctx)
        if memory is not None:
            C.llama_memory_clear(memory, bool(self._is_recurrent or self._is_hybrid))
        self._cache.clear()
        self.n_tokens = 0
        self._requires_eval = True

    def _refuse_without_weights(self) -> None:
        if self._vocab_only:
            raise GenerationError(
                "this model was loaded with vocab_only=True, without its weights: load it without vocab_only to compute"
            )

    def _refuse_without_decoder(self, *, to_embed: bool = False) -> None:
        if not (self._embeds if to_embed else self._decodes):
            raise GenerationError(
                "this model has an encoder, as BERT and T5 do, and does not generate text token by token: use one that "
                "does, or a BERT with embedding=True for embeddings"
            )

    def _call_llama(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._refuse_without_weights()
        self._refuse_without_decoder(to_embed=method.__name__ in ("embed", "create_embedding"))
        if self._tokenizer is not None:
            check_call(method.__name__, args, kwargs, self._tokenizer)
        self._begin_llama(method.__name__)
        try:
            return method(self, *args, **kwargs)
        except Exception:
            self._after_cancel()
            raise

    def _begin_llama(self, name: str) -> None:
        self._cache.clear()
        set_threads(self._ctx.ctx, self.n_threads, self.n_threads_batch, self._threads)
        if C.llama_model_n_swa(self._model.model) and not self.settings.swa_full and name != "eval":
            self.clear_memory()  # the cache of a small window cannot go back to a common prefix

    def _after_cancel(self) -> None:
        """Raise an error if one of Llama's methods was cancelled, and discard its cache."""
        if self._worker.is_cancelled:
            self.clear_memory()
            if self._closed:
                raise ModelClosedError("this model was closed while it computed: load it again with load_model(…)")
            raise GenerationError("this computation was cancelled")

    def _pump(self, generator: Iterator[Any], name: str) -> Iterator[Any]:
        """Run one of Llama's generators; a cancelled one ends."""
        self._begin_llama(name)
        try:
            yield from generator
        except Exception:
            self._after_cancel()
            raise

    def _init_sampler(self, *args: Any, grammar: Any = None, **kwargs: Any) -> Any:
        """Make Llama's sampler chain, which raises where llama.cpp would crash the process."""
        if grammar is not None:
            if not isinstance(grammar, LlamaGrammar):
                raise ArgumentTypeError(f"grammar must be a llama_cpp.LlamaGrammar, not {type(grammar).__name__}")
            from labkit.grammar.check import check_grammar

            check_grammar(grammar._grammar)
            refuse_unknown_tokens(self._model.vocab, grammar._grammar)
        chain = super()._init_sampler(*args, **{**kwargs, "grammar": grammar})
        native, n_vocab = chain.sampler, self._n_vocab

        def sample(ctx: Any, index: int = -1) -> int:
            if not C.llama_get_logits_ith(ctx.ctx, index):
                raise GenerationError("no logits at this position: eval() tokens first, or load with logits_all=True")
            if grammar is not None:
                return sample_allowed(native, ctx.ctx, n_vocab, index)
            return int(C.llama_sampler_sample(native, ctx.ctx, index))

        chain.sample = sample
        return chain


def _guard(model_class: type[LlamaMethods]) -> None:
    """Guard the methods that a class inherits from Llama."""
    for name in COMPUTING:
        setattr(model_class, name, _computing(getattr(Llama, name)))
    for name in READING:
        setattr(model_class, name, _reading(getattr(Llama, name)))
    for name in READING_PROPERTIES:
        setattr(model_class, name, property(_reading(inspect.getattr_static(Llama, name).fget)))


_guard(LlamaMethods)
