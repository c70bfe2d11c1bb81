"""Every error that labkit raises, in one tree.

::

    LabkitError
    ├── GGUFError (ValueError)              the file is not a sound GGUF
    ├── ModelLoadError (RuntimeError)       the engine could not load it; says the engine's own reason
    │   └── ModelNotFoundError (FileNotFoundError)   no such file, folder or known name
    ├── ModelClosedError (RuntimeError)     the model was closed (or belongs to another process)
    ├── GenerationError (RuntimeError)      the engine could not generate
    │   └── ContextOverflowError (ValueError)        the prompt does not fit the context
    ├── DownloadError (OSError)             a model could not be fetched
    ├── QuantizationError (RuntimeError)    the engine could not quantize a model
    ├── GradingError (RuntimeError)         a submission could not be graded
    ├── ArgumentError (ValueError)          an argument has a value that cannot work
    ├── ArgumentTypeError (TypeError)       an argument has a type that cannot work
    └── UnknownKeyError (KeyError)          a record has no such key; names the keys that exist

Each is also the built-in exception that fits, so ``except ValueError`` works where a newcomer expects it to.
A message is one line: what was given, what is needed, what to do next.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "ContextOverflowError",
    "DownloadError",
    "GGUFError",
    "GenerationError",
    "GradingError",
    "LabkitError",
    "LabkitWarning",
    "ModelClosedError",
    "ModelLoadError",
    "ModelNotFoundError",
    "QuantizationError",
    "UnknownKeyError",
]


class LabkitError(Exception):
    """Base of every error that labkit raises on purpose."""


class LabkitWarning(UserWarning):
    """Something works, but not as it was probably meant."""


class ArgumentError(LabkitError, ValueError):
    """An argument has the right type and a value that cannot work."""


class ArgumentTypeError(LabkitError, TypeError):
    """An argument has a type that cannot work."""


class UnknownKeyError(LabkitError, KeyError):
    """A record has no such key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class GGUFError(LabkitError, ValueError):
    """The file is not a sound GGUF; the message names the section, the field and the offset."""


class ModelLoadError(LabkitError, RuntimeError):
    """The engine could not load the model; the message carries the engine's own reason."""


class ModelNotFoundError(ModelLoadError, FileNotFoundError):
    """No file and no known model has this name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ModelClosedError(LabkitError, RuntimeError):
    """The model was closed, or it was loaded in another process than this one."""


class GenerationError(LabkitError, RuntimeError):
    """The engine could not generate text."""


class ContextOverflowError(GenerationError, ValueError):
    """The prompt (and the tokens asked for) do not fit the context.

    Attributes
    ----------
    n_prompt : int
        Tokens of the prompt.
    max_tokens : int or None
        Tokens that were asked for; None is "until the context is full".
    n_ctx : int
        Tokens that the context holds.
    """

    def __init__(self, n_prompt: int, max_tokens: int | None, n_ctx: int) -> None:
        self.n_prompt = n_prompt
        self.max_tokens = max_tokens
        self.n_ctx = n_ctx
        asked = "at least 1 token" if max_tokens is None else f"max_tokens={max_tokens:,}"
        needed = n_prompt + (1 if max_tokens is None else max_tokens)
        super().__init__(
            f"the prompt has {n_prompt:,} tokens and {asked} was asked for, but the context holds {n_ctx:,}: "
            f"shorten the prompt, ask for fewer tokens, or load the model with n_ctx={needed:,} or more"
        )

    def __reduce__(self) -> tuple[type, tuple[int, int | None, int]]:
        return type(self), (self.n_prompt, self.max_tokens, self.n_ctx)


class DownloadError(LabkitError, OSError):
    """A model could not be fetched; the message says what to do without a network."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class QuantizationError(LabkitError, RuntimeError):
    """The engine could not quantize the model; the message carries the engine's own reason."""


class GradingError(LabkitError, RuntimeError):
    """A submission could not be graded."""
