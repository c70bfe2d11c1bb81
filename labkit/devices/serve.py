"""Serve this machine's CPU or GPU to models in other processes: llama.cpp's RPC server in a child process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from pathlib import Path
from typing import Any

from labkit.checks import check_flag, check_int, one_line
from labkit.children import request_line, script_command
from labkit.devices.connection import connect
from labkit.devices.endpoints import Endpoint, free_port, parse_endpoint
from labkit.devices.rpc_protocol import check_rpc
from labkit.errors import ArgumentError, ArgumentTypeError, LabkitError, LabkitWarning
from labkit.system import engine_build, logical_cores_available
from labkit.units import counted

_CHILD = Path(__file__).with_name("serve_child.py")
_START_S = 30.0
_MAX_THREADS = 512


class ServedDevice:
    """A device served by a child process; created by `start_device`.

    Use it in a ``with`` block, or call ``close()``. It always ends with this process.

    Attributes
    ----------
    endpoint : str
        Its address, for ``load_model(devices=[…])``; the device itself may be given too.
    kind : str
        ``"CPU"``, ``"GPU"`` or ``"IGPU"``.
    description : str
        llama.cpp's description.
    n_threads : int
        Threads of a CPU device.
    pid : int
        Process ID of the child.
    """

    def __init__(self, endpoint: Endpoint | None = None, n_threads: int = 1) -> None:
        if not isinstance(endpoint, Endpoint):
            raise ArgumentTypeError("create a ServedDevice with start_device(…): device = start_device(n_threads=1)")
        self.n_threads = n_threads
        self._process = _start_child()
        self._end = weakref.finalize(self, _end_child, self._process, os.getpid())
        try:
            first, self._output = _send_request(self._process, endpoint, n_threads)
            self.kind, self.description = str(first["kind"]), str(first["description"])
            self._wait_until_it_answers(endpoint)
        except BaseException:
            self.close()
            raise
        self.endpoint = str(endpoint)
        self.pid = self._process.pid

    def _wait_until_it_answers(self, endpoint: Endpoint) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            if self._process.poll() is not None:
                raise LabkitError(f"the device at {endpoint} could not be started: {self._last_output()}")
            try:
                with connect(endpoint.reachable):
                    return
            except LabkitError as error:
                if time.monotonic() > deadline or not isinstance(error.__cause__, OSError):
                    raise
                time.sleep(0.02)

    def _last_output(self) -> str:
        time.sleep(0.05)  # wait for its last line of output
        return one_line(" ".join(self._output)) or f"its process ended with {self._process.returncode}"

    @property
    def is_running(self) -> bool:
        """Whether its process is running."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait until its process ends; Ctrl-C stops waiting.

        Raises
        ------
        LabkitError
            When the process died.
        """
        while self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)  # short, so that Ctrl-C works on Windows too
        if self._end.alive:
            raise LabkitError(f"the device at {self.endpoint} has ended: {self._last_output()}")

    def close(self) -> None:
        """Stop its process; safe to call twice. Models that use it get a `GenerationError` at their next token."""
        self._end()

    def __enter__(self) -> ServedDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise ArgumentTypeError("a served device cannot be copied or sent to another process: send its endpoint instead")

    def __repr__(self) -> str:
        state = "" if self.is_running else ": ended"
        return f"<ServedDevice {getattr(self, 'endpoint', '?')}, {getattr(self, 'kind', '?')}{state}>"


def start_device(endpoint: str = "127.0.0.1:0", *, n_threads: int = 1, allow_network: bool = False) -> ServedDevice:
    """Serve this machine's GPU, or its CPU if it has none, from a subprocess.

    Parameters
    ----------
    endpoint : str
        ``host:port`` of this machine to listen at; port 0 is a free port chosen by the system.
    n_threads : int
        Threads of a CPU device, at most the logical cores of this process; the caller's threads use the same cores.
    allow_network : bool
        Allow an address that other machines can reach.

    Returns
    -------
    ServedDevice
        For ``load_model(devices=[device])``. It ends with its ``with`` block, ``close()``, or this process.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an invalid address, or one that other machines can reach without ``allow_network=True``.
    LabkitError
        When the port is in use, this llama.cpp has no RPC, or the process cannot start.

    Warns
    -----
    LabkitWarning
        When other machines can reach the device; the warning explains the risk.

    Examples
    --------
    >>> import labkit
    >>> with labkit.start_device() as device, labkit.load_model(n_ctx=256, n_gpu_layers=15, devices=[device]) as model:
    ...     labkit.generate_text(model, "1, 2, 3, 4,", max_tokens=6, temperature=0)
    ' 5, 6,'
    """
    place = parse_endpoint(endpoint, least_port=0)
    n_threads = min(check_int("n_threads", n_threads, 1, _MAX_THREADS), logical_cores_available())
    if not check_flag("allow_network", allow_network) and not place.is_loopback:
        raise ArgumentError(
            f"endpoint={place} is reachable from other machines, and anyone who reaches it can read the device's memory and "
            "run code here: use 127.0.0.1, or pass allow_network=True (--allow-network) in a network that you trust"
        )
    if ":" in place.host:
        raise ArgumentError(f"endpoint={place} is an IPv6 address, but llama.cpp listens only on IPv4: use 127.0.0.1")
    check_rpc(engine_build())
    place = Endpoint(place.host, free_port(place))
    if not place.is_loopback:
        warnings.warn(
            f"the device at {place} is reachable from other machines, without password or encryption: anyone who "
            "reaches it can read and write its memory and run code in its process",
            LabkitWarning,
            stacklevel=2,
        )
    return ServedDevice(place, n_threads)


def serve_device(endpoint: str = "127.0.0.1:50052", *, n_threads: int = 1, allow_network: bool = False) -> None:
    """Serve this machine's GPU, or its CPU if it has none, until Ctrl-C.

    It serves one process at a time, without password or encryption, by default on the loopback address. The other side calls
    ``load_model(n_gpu_layers=…, devices=["host:port"])``. This call blocks; `start_device` does not.

    Parameters
    ----------
    endpoint, n_threads, allow_network
        As for `start_device`.

    Raises
    ------
    ArgumentError, ArgumentTypeError, LabkitError
        As for `start_device`, and when the device's process dies.
    """
    started = start_device(endpoint, n_threads=n_threads, allow_network=allow_network)
    with started as device, contextlib.suppress(KeyboardInterrupt):
        print(describe(device), file=sys.stderr, flush=True)  # the only output while this blocks
        device.wait()


def describe(device: ServedDevice) -> str:
    """Return one line: what is served, and where."""
    threads = f" with {counted(device.n_threads, 'thread')}" if device.kind == "CPU" else ""
    return f"serving {device.kind}{threads} ({device.description}) at {device.endpoint}; stop with Ctrl-C"


def _start_child() -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise LabkitError("sys.executable is not set, so no device can be started: run labkit with a regular Python")
    try:
        return subprocess.Popen(
            script_command(_CHILD), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise LabkitError(f"the device's process could not be started ({error})") from error


def _send_request(process: subprocess.Popen[bytes], endpoint: Endpoint, n_threads: int) -> tuple[dict[str, Any], deque[str]]:
    """Send the request to the child, and return its answer and the queue of its stderr lines."""
    request = {"endpoint": str(endpoint), "n_threads": n_threads}
    lines: deque[str] = deque(maxlen=20)
    with contextlib.suppress(OSError):  # it may already have ended
        process.stdin.write(request_line(request))  # type: ignore[union-attr]  # stdin=PIPE
        process.stdin.flush()  # type: ignore[union-attr]  # likewise
    output: Any = process.stdout
    for line in output:
        with contextlib.suppress(ValueError):  # otherwise it is a warning or its last output
            answer: dict[str, Any] = json.loads(line)
            break
        lines.append(line.decode("utf-8", "replace"))
    else:
        output.close()
        reason = one_line(" ".join(lines)) or f"it ended with {process.wait()}"
        raise LabkitError(f"the device's process could not start: {reason}")
    threading.Thread(target=_listen, args=(output, lines), name="labkit-served", daemon=True).start()
    return answer, lines


def _listen(output: Any, lines: deque[str]) -> None:
    with contextlib.suppress(ValueError, OSError), output:
        for line in output:
            lines.append(line.decode("utf-8", "replace"))


def _end_child(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # in a forked child, keep the device running
        return
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()
    with contextlib.suppress(OSError):
        process.stdin.close()  # type: ignore[union-attr]  # stdin=PIPE
