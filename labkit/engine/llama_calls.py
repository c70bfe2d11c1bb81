"""What ``llama_cpp.Llama``'s own methods are called with, checked where the engine would end the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_cpp import LlamaState

from labkit.engine.prompts import Tokenizer
from labkit.errors import ArgumentError, ArgumentTypeError

__all__ = ["check_call"]

_TOKENS = ("eval", "generate")
_PROMPTS = ("__call__", "create_completion")


def check_call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Check the arguments of one of Llama's methods.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For tokens that are none, an empty text to embed, a state that is none or not whole.
    """
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
        raise ArgumentTypeError(f"load_state takes what model.save_state() returned, not {type(state).__name__}")
    if len(state.llama_state) != state.llama_state_size:
        raise ArgumentError("this state is not whole: take a new one with model.save_state()")
