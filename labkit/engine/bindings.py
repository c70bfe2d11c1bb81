"""What ``llama_cpp.Llama`` gives no way to set, in one place.

``tests/test_bindings.py`` fails when a new llama-cpp-python changes any of it underneath.

References
----------
llama.cpp ``include/llama.h`` (``llama_context_params``, ``llama_set_abort_callback``, ``llama_log_set``),
``ggml/src/ggml-cpu/ggml-cpu.c`` (``ggml_graph_compute_thread`` polls the abort callback before each node).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import llama_cpp
from llama_cpp import llama_cpp as C  # noqa: N812  # C is what it is: llama.cpp's C interface

from labkit.errors import LabkitError

__all__ = ["AbortFlag", "C", "EngineLog", "engine_prints_nothing"]

_DEBUG, _CONTINUES = 4, 5  # ggml_log_level
_load_lock = threading.Lock()


class AbortFlag:
    """One byte that llama.cpp polls before each node of its graph; set it and a computation ends within milliseconds.

    The callback that llama.cpp polls is the C library's own ``strlen`` on a buffer of two bytes: it returns 0 for the
    empty string and 1 once the first byte is set, which is just ``bool (*)(void *)``. A callback written in Python
    would need the interpreter's lock some thousand times a token.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)
        self._callback = C.ggml_abort_callback(_address_of_strlen())  # kept: llama.cpp holds only its address

    def set(self) -> None:
        """Ask the running computation to end."""
        self._buffer[0] = b"\x01"

    def clear(self) -> None:
        """Let the next computation run."""
        self._buffer[0] = b"\x00"

    def attach(self, ctx: Any) -> None:
        """Let the context ``ctx`` poll this flag."""
        C.llama_set_abort_callback(ctx, self._callback, ctypes.cast(self._buffer, ctypes.c_void_p))


def _address_of_strlen() -> int:
    library = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
    address = ctypes.cast(library.strlen, ctypes.c_void_p).value
    if address is None:
        raise LabkitError("the C library has no strlen, so computations could not be interrupted: please report this")
    return address


class EngineLog:
    """The engine's own log of one model: what it wrote while loading, and the last lines since.

    llama.cpp has a single log for the whole process. Lines are told apart by the thread that wrote them: each model
    has a thread of its own (`labkit.engine.worker`), and what no model claims goes where llama-cpp-python sends it.
    """

    _by_thread: ClassVar[dict[int, EngineLog]] = {}

    def __init__(self, *, echo: bool) -> None:
        self.echo = echo
        self._lines: deque[str] = deque(maxlen=20_000)
        self._wanted = True

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Collect what the calling thread makes the engine write."""
        thread = threading.get_ident()
        self._by_thread[thread] = self
        try:
            yield
        finally:
            self._by_thread.pop(thread, None)

    def text(self) -> str:
        """Return everything collected so far."""
        return "".join(self._lines)

    def last_error(self) -> str | None:
        """Return the engine's own reason: the last lines that speak of an error, newest first, in one line."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        marks = ("error", "fail", "unable", "invalid", "missing", "unknown", "not supported", "exceed", "requires")
        reasons = [line for line in lines if any(mark in line.lower() for mark in marks)]
        told = [_without_prefix(line) for line in reasons if not line.startswith(("llama_model_load_from_file_impl:",))]
        return told[0] if told else (_without_prefix(reasons[-1]) if reasons else None)

    def clear(self) -> None:
        """Forget what was collected."""
        self._lines.clear()

    def _write(self, level: int, text: str) -> None:
        if level != _CONTINUES:
            self._wanted = level != _DEBUG or self.echo
        if not self._wanted:
            return
        self._lines.append(text)
        if self.echo:
            sys.stderr.write(text)
            sys.stderr.flush()


def _without_prefix(line: str) -> str:
    """Drop the C function's name in front of a line of the log."""
    head, colon, rest = line.partition(": ")
    return rest if colon and " " not in head and rest else line


@C.llama_log_callback  # type: ignore[untyped-decorator]  # llama_cpp ships no types
def _on_log(level: int, text: bytes | None, user_data: Any) -> None:
    log = EngineLog._by_thread.get(threading.get_ident())
    if log is not None:
        log._write(level, (text or b"").decode("utf-8", errors="replace"))
    else:
        llama_cpp._logger.llama_log_callback(level, text, user_data)


C.llama_log_set(_on_log, ctypes.c_void_p(0))


@contextlib.contextmanager
def engine_prints_nothing() -> Iterator[None]:
    """Keep llama-cpp-python from pointing the whole process's stdout and stderr at nothing while it loads.

    It does so to hide the engine's log, which `EngineLog` already collects; a progress bar, a log line of another
    thread or a student's own print would be lost with it.
    """
    with _load_lock:
        modules: list[Any] = [llama_cpp.llama, llama_cpp._internals]
        saved = [module.suppress_stdout_stderr for module in modules]
        for module in modules:
            module.suppress_stdout_stderr = _Nothing
        try:
            yield
        finally:
            for module, original in zip(modules, saved, strict=True):
                module.suppress_stdout_stderr = original


class _Nothing(contextlib.nullcontext[None]):
    def __init__(self, disable: bool = True) -> None:
        super().__init__()


ProgressCallback = Callable[[float], bool]


def progress_callback(report: ProgressCallback) -> Any:
    """Wrap ``report(fraction) -> keep going`` as llama.cpp's progress callback; the caller keeps the reference."""

    @C.llama_progress_callback  # type: ignore[untyped-decorator]  # llama_cpp ships no types
    def callback(fraction: float, _user_data: Any) -> bool:
        return report(fraction)

    return callback
