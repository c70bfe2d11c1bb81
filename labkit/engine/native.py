"""What ``llama_cpp.Llama`` cannot set, in one place.

``tests/test_native.py`` fails when a new llama-cpp-python changes any of it.

References
----------
llama.cpp ``include/llama.h`` (``llama_context_params``, ``llama_set_abort_callback``, ``llama_log_set``),
``ggml/src/ggml-cpu/ggml-cpu.c`` (``ggml_graph_compute_thread`` polls the abort callback before each node).
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from labkit.checks import one_line
from labkit.errors import LabkitError
from labkit.system import load_engine
from labkit.system.build import ggml_function
from labkit.system.huge_pages import request_huge_pages

llama_cpp = load_engine()  # raises an error that names the fix, where the imports below would end in a traceback
from llama_cpp import Llama, LlamaState, llama_chat_format  # noqa: E402
from llama_cpp import llama_cpp as C  # noqa: E402, N812  # llama.cpp's C interface
from llama_cpp.llama_grammar import LlamaGrammar  # noqa: E402

__all__ = [
    "AbortFlag",
    "C",
    "EngineLog",
    "Llama",
    "LlamaGrammar",
    "LlamaState",
    "claim_log",
    "cpu_overrides",
    "give_back_memory",
    "progress_callback",
    "refuse_while_loading",
    "release_threads",
    "safe_construction",
]

_DEBUG, _WARNING, _ERROR, _CONTINUES = 1, 3, 4, 5  # ggml_log_level
# llama.cpp writes it when memory for weights or a KV cache is allocated, and not filled yet
_ALLOCATED = re.compile(r"(?<!_Mapped )(?:model|KV) buffer size = *([\d.]+) MiB")
_load_lock = threading.Lock()
_loading: list[int] = []  # the thread that holds the lock


class AbortFlag:
    """One byte that llama.cpp polls before each node of its graph; setting it ends a computation within milliseconds.

    The callback that llama.cpp polls is the C library's own ``strlen`` on a buffer of two bytes: it returns 0 for the
    empty string and 1 once the first byte is set, which fits ``bool (*)(void *)``. A callback written in Python
    would need the interpreter's lock about a thousand times per token.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)
        self._callback = C.ggml_abort_callback(_address_of_strlen())  # kept: llama.cpp holds only its address

    def set(self) -> None:
        """Request the running computation to end."""
        self._buffer[0] = b"\x01"

    def clear(self) -> None:
        """Allow the next computation."""
        self._buffer[0] = b"\x00"

    def attach(self, ctx: Any) -> None:
        """Make the context ``ctx`` poll this flag."""
        C.llama_set_abort_callback(ctx, self._callback, ctypes.cast(self._buffer, ctypes.c_void_p))


def _address_of_strlen() -> int:
    library = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
    address = ctypes.cast(library.strlen, ctypes.c_void_p).value
    if address is None:
        raise LabkitError("the C library has no strlen, so computations could not be interrupted: please report this")
    return address


def give_back_memory() -> None:
    """Return freed memory to the system; of the C libraries, only glibc keeps tens of MiB for later."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):  # another C library, such as musl
            ctypes.CDLL(None).malloc_trim(0)


def release_threads() -> None:
    """End the calling thread's idle OpenMP threads after its computation, if it has any.

    GNU's OpenMP counts the threads of all teams in a process, idle ones too. If they are more than the cores, its barriers
    sleep at once instead of spinning first, and every node of the graph ends at a barrier: on 2 cores, a second open model
    slowed the first from 150 to 87 tokens per second. A new team needs about 50 microseconds to start.

    References
    ----------
    libgomp ``env.c`` (``gomp_throttled_spin_count_var``), ``team.c`` (``gomp_managed_threads``, ``gomp_pause_host``);
    OpenMP 5.0, section 3.2.44 (``omp_pause_resource_all``).
    """
    if _pause_resources is not None:
        _pause_resources(_OMP_PAUSE_SOFT)


def _find_pause() -> Any:
    """Return GNU OpenMP's function if libllama is linked with it, else None; LLVM's works differently."""
    if hasattr(C._lib, "__kmpc_fork_call"):
        return None
    return getattr(C._lib, "omp_pause_resource_all", None)


_OMP_PAUSE_SOFT = 1
_pause_resources = _find_pause()


class EngineLog:
    """The engine's own log of one model: what it wrote while loading, and the last lines since.

    llama.cpp has a single log for the whole process. The writing thread identifies a line: each model has its
    own thread (`labkit.engine.worker`), and llama-cpp-python handles lines of other threads. ``renames`` maps each address
    that llama.cpp uses instead of a device's own to the name to write.
    """

    _by_thread: ClassVar[dict[int, EngineLog]] = {}

    def __init__(self, *, echo: bool, renames: Mapping[str, str] | None = None) -> None:
        self.echo = echo
        self._renames = dict(renames or {})
        self._lines: deque[tuple[int, str]] = deque(maxlen=20_000)
        self._level = _DEBUG

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Collect the log of the calling thread."""
        thread = threading.get_ident()
        self._by_thread[thread] = self
        try:
            yield
        finally:
            self._by_thread.pop(thread, None)

    def text(self) -> str:
        """Return everything collected so far."""
        return "".join(text for _, text in self._lines)

    def last_error(self) -> str | None:
        """Return the engine's reason in one line: its first error, otherwise its last warning."""
        errors = self._written_at(_ERROR)
        specific = [line for line in errors if not line.startswith("llama_model_load_from_file_impl:")]
        lines = [*specific, *errors, *reversed(self._written_at(_WARNING))]
        return one_line(_without_prefix(lines[0])) if lines else None

    def _written_at(self, level: int) -> list[str]:
        text = "".join(text for at, text in self._lines if at == level)
        return [line.strip() for line in text.splitlines() if line.strip()]

    def clear(self) -> None:
        """Forget what was collected."""
        self._lines.clear()

    def _write(self, level: int, text: str) -> None:
        if level != _CONTINUES:
            self._level = level
        if self._level == _DEBUG and not self.echo:  # 1,800 lines while SmolLM2 loads
            return
        if allocated := _ALLOCATED.search(text):
            request_huge_pages(int(float(allocated[1]) * 2**20))
        for address, name in self._renames.items():
            text = text.replace(address, name)
        self._lines.append((self._level, text))
        if self.echo:
            sys.stderr.write(text)
            sys.stderr.flush()


def _without_prefix(line: str) -> str:
    """Remove the C function's name from the start of a log line."""
    head, colon, rest = line.partition(": ")
    return rest if colon and " " not in head and rest else line


@C.llama_log_callback  # type: ignore[untyped-decorator]  # llama_cpp ships no types
def _on_log(level: int, text: bytes | None, user_data: Any) -> None:
    log = EngineLog._by_thread.get(threading.get_ident())
    if log is not None:
        log._write(level, (text or b"").decode("utf-8", errors="replace"))
    else:
        llama_cpp._logger.llama_log_callback(level, text, user_data)


def claim_log() -> None:
    """Make llama.cpp write its log here.

    It keeps only the address of a callback. If other code set one that Python has freed since, the next line of the log
    would crash the process; so each call into the engine sets the callback again, which costs a microsecond.
    """
    C.llama_log_set(_on_log, ctypes.c_void_p(0))


claim_log()


@contextlib.contextmanager
def safe_construction() -> Iterator[None]:
    """Prevent two side effects of llama-cpp-python's constructor of ``Llama``.

    It redirects the whole process's stdout and stderr to null to hide the engine's log, which `EngineLog` already
    collects; a progress bar or a student's print would be lost too. And it compiles the file's chat template in this
    process, where a malicious one may never end.
    """
    modules: list[Any] = [llama_cpp.llama, llama_cpp._internals]
    with _load_lock, contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(_replaced(module, "suppress_stdout_stderr", _Nothing))
        stack.enter_context(_replaced(llama_chat_format, "Jinja2ChatFormatter", _BoundedFormatter))
        _loading.append(threading.get_ident())
        stack.callback(_loading.clear)
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def refuse_while_loading() -> None:
    """Refuse to load a model from the progress callback of another, which would deadlock."""
    if threading.get_ident() in _loading:
        raise LabkitError("load_model(…) was called while a model is loading in this thread: wait until it is loaded")


class _Nothing(contextlib.nullcontext[None]):
    def __init__(self, disable: bool = True) -> None:
        super().__init__()


class _BoundedFormatter(llama_chat_format.Jinja2ChatFormatter):
    """llama-cpp-python's formatter, with the rendering left to `ChatTemplate`: nothing is compiled here."""

    def __init__(
        self,
        template: str,
        eos_token: str,
        bos_token: str,
        add_generation_prompt: bool = True,
        stop_token_ids: list[int] | None = None,
    ) -> None:
        self.template, self.eos_token, self.bos_token = template, eos_token, bos_token
        self.add_generation_prompt = add_generation_prompt
        self.stop_token_ids = None if stop_token_ids is None else set(stop_token_ids)
        self._environment: Any = _Bounded(template, bos_token, eos_token)


class _Bounded:
    def __init__(self, template: str, bos_token: str, eos_token: str) -> None:
        self._given = template, bos_token, eos_token

    def render(self, **values: Any) -> str:
        from labkit.chat_template.render import ChatTemplate

        for name in ("raise_exception", "strftime_now", "bos_token", "eos_token"):  # ChatTemplate has its own
            values.pop(name, None)
        template, bos_token, eos_token = self._given
        return ChatTemplate(template, bos_token=bos_token, eos_token=eos_token).render(**values)


def cpu_overrides(patterns: Sequence[str]) -> Any:
    """Return ``llama_model_params.tensor_buft_overrides``: tensors whose names match go to the CPU; keep the reference."""
    buffer_type = ggml_function("ggml_backend_cpu_buffer_type", ctypes.c_void_p)()
    rows = [_TensorOverride(pattern.encode(), buffer_type) for pattern in patterns]
    return (_TensorOverride * (len(rows) + 1))(*rows)


class _TensorOverride(ctypes.Structure):  # struct llama_model_tensor_buft_override, which llama_cpp does not define
    _fields_: ClassVar = [("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p)]


ProgressCallback = Callable[[float], bool]


def progress_callback(report: ProgressCallback) -> Any:
    """Wrap ``report(fraction) -> keep going`` as llama.cpp's progress callback; the caller keeps the reference."""

    @C.llama_progress_callback  # type: ignore[untyped-decorator]  # llama_cpp ships no types
    def callback(fraction: float, _user_data: Any) -> bool:
        return report(fraction)

    return callback
