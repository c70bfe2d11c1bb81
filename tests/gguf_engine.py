"""llama.cpp in a child process: load a file and use it briefly, with or without a crash."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO

_CHILD = """
import ctypes, sys, llama_cpp
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if b"CUDA" not in llama_cpp.llama_print_system_info():  # which reserves more addresses than any limit allows
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a hostile size shall not take the machine along
except ImportError:
    pass
silent = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
flash = "flash" in sys.argv

def use(path):
    model = llama_cpp.Llama(path, n_ctx=64, n_batch=32, n_threads=1, n_threads_batch=1, verbose=False, flash_attn=flash)
    try:
        tokens = model.tokenize(b"hello world\\n the \\xf0\\x9f\\xa6\\x99", add_bos=True, special=True) or [0]
        model.detokenize(tokens)
        model.eval(tokens[:20])
        token = model.sample(temp=0.7)
        model.detokenize([token])
        model.eval([token])
    finally:
        model.close()

print("ready", flush=True)
for line in sys.stdin:
    try:
        use(line.rstrip("\\n"))
        print("ok", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}"[:200].replace("\\n", " ").replace("\\r", " "), flush=True)
"""


class EngineChild:
    """Load files in a child process; a crash is reported with its signal, and the next file gets a new child.

    Parameters
    ----------
    flash : bool
        Compute with flash attention.
    timeout_s : float
        Time limit; a slower child counts as hanging and is killed.
    """

    def __init__(self, *, flash: bool = False, timeout_s: float = 60) -> None:
        self._argv = [sys.executable, "-c", _CHILD, *(["flash"] if flash else [])]
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> EngineChild:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def load(self, path: Path, *, confirm: bool = True) -> str:
        """Return "ok", llama.cpp's refusal, or "DIED …"; a crash is confirmed with a second child."""
        answer = self._ask(path)
        return self._ask(path) if confirm and answer.startswith("DIED") else answer

    def _ask(self, path: Path) -> str:
        child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(OSError):  # it may have died after the last file; then the answer is empty
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
        return self._answer(child, child.stdout) or self._died(child)

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
        self._child = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            encoding="utf-8", errors="replace", env=environment,
        )  # fmt: skip
        assert self._child.stdout is not None
        assert self._answer(self._child, self._child.stdout) == "ready", "the engine's child process does not start"
        return self._child

    def _answer(self, child: subprocess.Popen[str], stdout: IO[str]) -> str:
        timer = threading.Timer(self._timeout_s, child.kill)
        timer.start()
        try:
            return stdout.readline().rstrip("\n")
        finally:
            timer.cancel()
            timer.join()

    def _died(self, child: subprocess.Popen[str]) -> str:
        code = child.wait()
        self._child = None
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return f"DIED with {code}"
