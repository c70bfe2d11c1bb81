"""Guards around ``llama_cpp.Llama``'s own methods: the right thread, an open model, labkit's errors."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from llama_cpp import Llama

from labkit.engine.arguments import one_line
from labkit.engine.worker import LockstepJob
from labkit.errors import ArgumentError, ArgumentTypeError, GenerationError, LabkitError

if TYPE_CHECKING:
    from labkit.engine.model import Model

__all__ = ["COMPUTING", "READING", "READING_PROPERTIES", "guard"]

# Every public method of Llama is in one of these; a test says when a new one appears.
COMPUTING = (
    "__call__", "create_chat_completion", "create_chat_completion_openai_v1", "create_completion", "create_embedding",
    "embed", "eval", "generate", "load_state", "reset", "sample", "save_state", "set_cache", "set_seed",
)  # fmt: skip
READING = (
    "detokenize",
    "n_ctx",
    "n_embd",
    "n_vocab",
    "pooling_type",
    "token_bos",
    "token_eos",
    "token_nl",
    "tokenize",
    "tokenizer",
)
READING_PROPERTIES = ("ctx", "model", "eval_tokens", "eval_logits")


def _computing(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let one of Llama's methods run in the model's own thread."""

    @functools.wraps(method)
    def guarded(self: Model, *args: Any, **kwargs: Any) -> Any:
        if self._worker.is_here:
            return method(self, *args, **kwargs)
        self._check_open()
        with _as_labkit_errors(method):
            result = self._worker.call(self._call_llama, method, args, kwargs)
        return _in_step(self, method, result) if isinstance(result, types.GeneratorType) else result

    return guarded


def _in_step(model: Model, method: Callable[..., Any], generator: Iterator[Any]) -> Iterator[Any]:
    def iterate() -> Iterator[Any]:
        model._check_open()
        job = LockstepJob(lambda: model._pump(generator, method.__name__))
        with _as_labkit_errors(method):
            yield from model._worker.iterate(job)
        if job.cancelled:
            model._check_open()

    return iterate()


def _reading(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let one of Llama's methods read what does not change, unless the model is closed."""

    @functools.wraps(method)
    def guarded(self: Model, *args: Any, **kwargs: Any) -> Any:
        if not self._ready:
            return method(self, *args, **kwargs)
        # In the worker's own thread nothing can be freed meanwhile, and the lock's holder may be waiting for it.
        inside = contextlib.nullcontext(self._tokenizer) if self._worker.is_here else self.vocabulary()
        with inside as tokenizer, _as_labkit_errors(method):
            first = args[0] if args else kwargs.get("tokens", kwargs.get("text", ()))
            if method.__name__ == "detokenize" and tokenizer is not None:
                tokenizer.check_tokens(first)
            if method.__name__ == "tokenize" and tokenizer is not None and isinstance(first, bytes):
                return tokenizer.beside(lambda: method(self, *args, **kwargs), first)
            return method(self, *args, **kwargs)

    return guarded


@contextlib.contextmanager
def _as_labkit_errors(method: Callable[..., Any]) -> Iterator[None]:
    """Turn what llama-cpp-python raises into labkit's errors, which are the same built-ins too."""
    try:
        yield
    except LabkitError:
        raise
    except Exception as error:  # whatever comes to hand there
        kind: type[LabkitError] = GenerationError
        if isinstance(error, TypeError):
            kind = ArgumentTypeError
        elif isinstance(error, (ValueError, AssertionError, LookupError)):
            kind = ArgumentError
        reason = one_line(error) or type(error).__name__
        raise kind(f"llama-cpp-python's {method.__name__} failed: {reason}") from error


def guard(model_class: type[Model]) -> None:
    """Put the guards around the methods that a class has from Llama."""
    for name in COMPUTING:
        setattr(model_class, name, _computing(getattr(Llama, name)))
    for name in READING:
        setattr(model_class, name, _reading(getattr(Llama, name)))
    for name in READING_PROPERTIES:
        setattr(model_class, name, property(_reading(inspect.getattr_static(Llama, name).fget)))
