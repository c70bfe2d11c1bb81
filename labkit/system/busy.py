"""busy_cores: processes that keep cores busy for a while, as a browser does, to see what happens next to them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from labkit.checks import check_int, check_number
from labkit.errors import LabkitError

# Ends after the given seconds, and when stdin closes: this process may be killed before it can end its children.
_LOOP = """
import os, sys, threading, time
def watch():
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
os.write(1, b"r")
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    sum(range(2000))
os._exit(0)
"""
_READY = b"r"


def busy_cores(n: int = 1, seconds: float = 10.0) -> contextlib.AbstractContextManager[None]:
    """Keep cores busy with other processes while a ``with`` block runs.

    Parameters
    ----------
    n : int
        Processes; each keeps one core busy.
    seconds : float
        Time after which they end even if the block still runs. They also end with this process.

    Returns
    -------
    context manager
        The processes are running when its block begins, and ended after it.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For a wrong argument.
    LabkitError
        On entering, when a process could not be started.

    Notes
    -----
    Each process has its own session. Linux then gives it the same share of the cores as this process with all its threads
    (autogroup scheduling), as it does for a browser.

    Examples
    --------
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model, labkit.busy_cores(1):
    ...     labkit.generate_text(model, "1, 2, 3, 4,", max_tokens=6, temperature=0)
    ' 5, 6,'
    """
    check_int("n", n, 0, 512)
    return _running(n, check_number("seconds", seconds, 0.0, 3600.0))


@contextlib.contextmanager
def _running(n: int, seconds: float) -> Iterator[None]:
    with contextlib.ExitStack() as started:
        processes = []
        for _ in range(n):
            processes.append(_start(seconds))
            started.callback(_end, processes[-1])
        for process in processes:
            if process.stdout is None or process.stdout.read(1) != _READY:
                raise LabkitError(f"a process that keeps a core busy has ended at once, with status {process.wait()}")
        yield


def _start(seconds: float) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise LabkitError("sys.executable is not set, so no process can be started: run labkit with a regular Python")
    command = [sys.executable, "-I", "-S", "-c", _LOOP, str(seconds)]
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        raise LabkitError(f"a process that keeps a core busy could not be started ({error})") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()  # closes its pipes
