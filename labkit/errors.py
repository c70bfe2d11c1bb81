"""The tree of labkit's errors.

::

    LabkitError
    ├── EngineError (ImportError)           llama.cpp is not installed, or cannot be loaded here; gives the fix
    ├── GGUFError (ValueError)              the file is not a valid GGUF
    ├── ModelLoadError (RuntimeError)       llama.cpp could not load the model; gives llama.cpp's reason
    │   └── ModelNotFoundError (FileNotFoundError)   no such file, folder or known name
    ├── ModelClosedError (RuntimeError)     the model was closed (or belongs to another process)
    ├── GenerationError (RuntimeError)      llama.cpp could not generate text
    │   └── ContextOverflowError (ValueError)        the prompt does not fit the context
    ├── DownloadError (OSError)             a model could not be fetched
    ├── QuantizationError (RuntimeError)    llama.cpp could not quantize the model
    ├── GradingError (RuntimeError)         a submission could not be graded
    ├── MissingPackageError (ImportError)   a package of an extra is not installed
    ├── ArgumentError (ValueError)          an argument has an invalid value
    ├── ArgumentTypeError (TypeError)       an argument has the wrong type
    └── UnknownKeyError (KeyError)          a record has no such key; lists the existing keys

Each is also the matching built-in exception, so ``except ValueError`` works as expected.
A message is one line: what was given, what is needed, what to do next. A notebook shows it with the cell's own line alone.
"""

from __future__ import annotations

import contextlib
import sys


def _render(error: BaseException) -> list[str]:
    """Return what IPython shows of an error: the lines of the user's cells and files that led to it, and the message."""
    import sysconfig  # 2 ms, which only an error needs
    import traceback
    from pathlib import Path

    installed = (str(Path(__file__).parent), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith(installed):
            place = frame.filename
            with contextlib.suppress(AttributeError, TypeError):  # a file, or another version of IPython
                place = " ".join(sys.modules["IPython"].get_ipython().compile.format_code_name(place))
            lines += [f"{place}, line {frame.lineno}", f"----> {frame.lineno} {frame.line}", ""]
    return [*lines, f"{type(error).__name__}: {error}"]


class LabkitError(Exception):
    """Base of every error that labkit raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        return _render(self)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a notebook's Stop ended a computation; the model can be used as before."""

    def _render_traceback_(self) -> list[str]:
        return _render(self)


class LabkitWarning(UserWarning):
    """Something works, but probably not as intended."""


class ArgumentError(LabkitError, ValueError):
    """An argument has an invalid value."""


class ArgumentTypeError(LabkitError, TypeError):
    """An argument has the wrong type."""


class UnknownKeyError(LabkitError, KeyError):
    """A record has no such key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class EngineError(LabkitError, ImportError):
    """llama.cpp is not installed or cannot be loaded here; the message has the reason and the command that fixes it."""


class GGUFError(LabkitError, ValueError):
    """The file is not a valid GGUF; the message names the section, the field and the offset."""


class ModelLoadError(LabkitError, RuntimeError):
    """llama.cpp could not load the model; the message has llama.cpp's reason."""


class ModelNotFoundError(ModelLoadError, FileNotFoundError):
    """No file and no known model has this name."""


class ModelClosedError(LabkitError, RuntimeError):
    """The model was closed, or was loaded in another process."""


class GenerationError(LabkitError, RuntimeError):
    """llama.cpp could not generate text."""


class ContextOverflowError(GenerationError, ValueError):
    """The prompt and the requested tokens do not fit in the context.

    Attributes
    ----------
    n_prompt : int
        Tokens of the prompt.
    max_tokens : int or None
        Requested tokens; None is "until the context is full".
    n_ctx : int
        Size of the context, tokens.
    """

    def __init__(self, n_prompt: int, max_tokens: int | None, n_ctx: int) -> None:
        self.n_prompt = n_prompt
        self.max_tokens = max_tokens
        self.n_ctx = n_ctx
        wanted = "at least 1 token" if max_tokens is None else f"max_tokens={max_tokens:,}"
        needed = n_prompt + (1 if max_tokens is None else max_tokens)
        super().__init__(
            f"the prompt has {n_prompt:,} token{'s' * (n_prompt != 1)} and {wanted} was requested, "
            f"but the context holds {n_ctx:,}: "
            f"shorten the prompt, request fewer tokens, or load the model with n_ctx={needed:,} or more"
        )

    def __reduce__(self) -> tuple[type, tuple[int, int | None, int]]:
        return type(self), (self.n_prompt, self.max_tokens, self.n_ctx)


class DownloadError(LabkitError, OSError):
    """A model could not be fetched; the message says what to do without a network."""


class QuantizationError(LabkitError, RuntimeError):
    """llama.cpp could not quantize the model; the message has llama.cpp's reason."""


class GradingError(LabkitError, RuntimeError):
    """A submission could not be graded."""


class MissingPackageError(LabkitError, ImportError):
    """A package that only some functions need is not installed; the message has the command that installs it."""
