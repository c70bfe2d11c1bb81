"""Threads with a stack that is large enough for llama.cpp.

Its tokenizers match with C++'s regular expressions, which take some 350 bytes of stack for each character of a run such as
``=====…``: 25,000 of them end a process whose stack has the usual 8 MiB, 3,000 are enough on Windows and 1,600 in a thread
on macOS. What is asked for here is reserved, not taken: memory is used as the stack grows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from labkit.errors import GenerationError

__all__ = ["start_thread"]

STACK_BYTES = 256 * 1024 * 1024
_lock = threading.Lock()  # the size is a setting of the whole process


def start_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread with a large stack.

    Raises
    ------
    GenerationError
        When the system grants no more threads.
    """
    with _lock:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
        except RuntimeError as error:
            raise GenerationError(
                f"this process may start no more threads ({error}): close models that you do not need"
            ) from error
        finally:
            threading.stack_size(before)
    return thread
