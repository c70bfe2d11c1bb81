"""Run cells in a sandboxed kernel; all of its messages are untrusted.

Notes
-----
A student's code controls its kernel and can send any message. So the socket limits the message size, all bytes are counted,
messages are parsed as JSON only, and a lost connection is not restored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.errors import GradingError
from labkit.extras import needs_extra
from labkit.grading.sandbox.limits import Limits, machine_is_full, memory_of, threads_of
from labkit.grading.sandbox.probe import ANSWER_TYPE
from labkit.grading.sandbox.start import start_sandboxed

with needs_extra():
    import ipykernel  # noqa: F401  # the sandbox's process needs it
    import zmq
    from jupyter_client.session import Session

_CHANNELS = {"shell": (1, zmq.DEALER), "iopub": (2, zmq.SUB), "control": (4, zmq.DEALER)}  # numbers: the ports in `Kernel`
_MESSAGE_BYTES = 2 << 20
_STEP_S = 0.05
_OUTPUT_CHARACTERS = 2000
_AT_THE_LIMIT = ("BlockingIOError", "RuntimeError: can't start new thread")


@dataclasses.dataclass
class CellResult:
    """The result of running a cell."""

    status: str = "ok"  # error; timeout; output, memory or processes (killed for exceeding a limit); died
    message: str = ""
    output: str = ""  # the beginning of what was printed and displayed, as text
    answers: list[str] = dataclasses.field(default_factory=list)  # JSON texts sent by a probe
    n_bytes: int = 0  # of all messages


class Kernel:
    """A sandboxed kernel for one notebook, a context manager; parameters as for `start_sandboxed`."""

    def __init__(
        self, limits: Limits, *, files: Mapping[str, str] | None = None, hidden: Sequence[Path] = (), unsafe: bool = False
    ) -> None:
        self.limits = limits
        self.alive = True
        self._session = Session(key=secrets.token_hex(16).encode())
        ports = [f"--{name}={number}" for number, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), start=1)]
        key = f"--Session.key={self._session.key!r}"
        quiet = ("--HistoryManager.enabled=False", "--InteractiveShell.colors=nocolor", "--log-level=50")
        arguments = ["--transport=ipc", *ports, key, *quiet]
        self._sandbox = start_sandboxed(arguments, limits, files=files or {}, hidden=hidden, unsafe=unsafe)
        self._context = zmq.Context()
        try:
            self._connect(time.monotonic() + limits.start_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the kernel and all processes that it started."""
        self.alive = False
        self._sandbox.end()
        self._context.destroy(linger=0)

    def execute(self, code: str, limit_s: float) -> CellResult:
        """Run a cell; interrupt it after ``limit_s``, and kill a kernel that ignores the interrupt."""
        request = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        sent = self._send("shell", "execute_request", request)
        result = CellResult()
        if not self._listen(sent, result, time.monotonic() + limit_s) and self.alive:
            self._send("control", "interrupt_request", {})
            interrupted = self._listen(sent, result, time.monotonic() + self.limits.grace_s)
            result.status = "timeout" if result.status in ("ok", "error") else result.status
            if not interrupted:
                self.close()
        if result.status == "error" and result.message.startswith(_AT_THE_LIMIT):  # the same limit, reported from inside
            self._kill(result, "processes")
        return result

    def _connect(self, until: float) -> None:
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        for name, (number, kind) in _CHANNELS.items():
            address = f"{self._sandbox.sockets}-{number}"
            self._wait_for_socket(Path(address), until)
            channel = self._sockets[name] = self._context.socket(kind)
            channel.setsockopt(zmq.MAXMSGSIZE, _MESSAGE_BYTES)
            channel.setsockopt(zmq.RCVHWM, 16)
            channel.setsockopt(zmq.RECONNECT_IVL, -1)
            if name == "iopub":
                channel.setsockopt(zmq.SUBSCRIBE, b"")
            channel.connect(f"ipc://{address}")
        self._poller, self._cut = zmq.Poller(), self._sockets["iopub"].get_monitor_socket(zmq.EVENT_DISCONNECTED)
        for listening in (self._sockets["shell"], self._sockets["iopub"], self._cut):
            self._poller.register(listening, zmq.POLLIN)
        while time.monotonic() < until and self.alive:
            sent = self._send("shell", "kernel_info_request", {})
            if self._listen(sent, CellResult(), min(until, time.monotonic() + 0.25)):
                return
        raise GradingError("the kernel does not answer: is this machine very busy?")

    def _wait_for_socket(self, path: Path, until: float) -> None:
        while time.monotonic() < until:
            if self._sandbox.process.poll() is not None:
                raise GradingError(f"the kernel did not start: {self._last_output()}")
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(path))
                return
            time.sleep(0.02)
        raise GradingError("the kernel did not start in time: is this machine very busy?")

    def _last_output(self) -> str:
        stream = self._sandbox.process.stderr
        text = stream.read(10_000).decode(errors="replace") if stream else ""
        return " ".join(text.split())[-300:] or "it exited without a message"

    def _send(self, channel: str, kind: str, content: dict[str, Any]) -> str:
        message = self._session.send(self._sockets[channel], kind, content)
        return str(message["header"]["msg_id"] if message else "")

    def _listen(self, sent: str, result: CellResult, until: float) -> bool:
        """Receive messages until the request is answered and the kernel idle; return False on timeout or a dead kernel."""
        waiting, checked = {"shell", "iopub"}, time.monotonic()
        while waiting and self.alive and time.monotonic() < until:
            ready = dict(self._poller.poll(int(_STEP_S * 1000)))
            for name in ("shell", "iopub"):
                if self._sockets[name] in ready and self._receive(name, sent, result):
                    waiting.discard(name)
            if result.n_bytes > self.limits.output_bytes or self._cut in ready:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._sandbox.process.wait(0.5)
                # still running after a disconnect: its cause was an oversized message
                self._kill(result, "output" if self._sandbox.process.poll() is None else "died")
            elif waiting and time.monotonic() > checked + _STEP_S:
                self._check_limits(result)
                checked = time.monotonic()
        return not waiting

    def _check_limits(self, result: CellResult) -> None:
        if self._sandbox.process.poll() is not None:
            self._kill(result, "died")
        elif machine_is_full() or memory_of(self._sandbox.first) > self.limits.memory_bytes:
            self._kill(result, "memory")
        elif threads_of(self._sandbox.first) >= self.limits.processes - 1:
            self._kill(result, "processes")

    def _kill(self, result: CellResult, status: str) -> None:
        result.status = status
        self.close()

    def _receive(self, name: str, sent: str, result: CellResult) -> bool:
        """Receive up to 50 messages from a channel; return whether one of them completes the request."""
        done = False
        for _ in range(50):
            try:
                frames = self._sockets[name].recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            result.n_bytes += sum(map(len, frames))
            kind, parent, content = _parse(frames)
            if parent == sent:
                done = _record(kind, content, result) or done
        return done


def _parse(frames: list[bytes]) -> tuple[str, str, dict[str, Any]]:
    """Return a message's type, the request that it answers, and its content; empty values if it is invalid."""
    try:
        begin = frames.index(b"<IDS|MSG>")
        header, parent, _, content = (json.loads(frame) for frame in frames[begin + 2 : begin + 6])
        kind, answered = header["msg_type"], parent.get("msg_id", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", "", {}
    return str(kind), str(answered), content if isinstance(content, dict) else {}


def _record(kind: str, content: dict[str, Any], result: CellResult) -> bool:
    """Store a message's content in the result; return whether it is the channel's last message for the request."""
    if kind == "stream":
        result.output += str(content.get("text", ""))
    elif kind == "error":
        result.status = "error"
        result.message = f"{content.get('ename')}: {content.get('evalue')}"[:_OUTPUT_CHARACTERS]
    elif kind in ("execute_result", "display_data") and isinstance(content.get("data"), dict):
        data = content["data"]
        if ANSWER_TYPE in data:
            result.answers.append(str(data[ANSWER_TYPE]))
        else:
            result.output += f"{data.get('text/plain', '')}\n"
    result.output = result.output[:_OUTPUT_CHARACTERS]
    return kind.endswith("_reply") or (kind == "status" and content.get("execution_state") == "idle")
