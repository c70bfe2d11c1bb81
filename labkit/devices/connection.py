"""A connection to a device, shared by this process's models; the handshake is checked, and a loss is reported once."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from labkit.devices.endpoints import Endpoint
from labkit.devices.rpc_protocol import HEAD, HELLO_BYTES, LENGTH, MAJOR, Command, answer_bytes
from labkit.errors import ModelLoadError

CONNECT_S = 3.0  # time limit for connecting, and for the handshake
_CHUNK = 1 << 20
_HUNG_UP = "it closed the connection"
_KEEPALIVE_S = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class DeviceLostError(Exception):
    """The device is gone; open requests will not be answered."""


class Connection:
    """One connection, which several models of this process use in turn, because a device serves one client at a time."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.lost: str | None = None  # why the connection is unusable
        self.busy_since: float | None = None  # of the open request (time.monotonic)
        self.computes_for: object = None  # the relay that sent the device's last graph
        self.n_users = 0
        self._turn = threading.Lock()
        self._state = threading.Lock()
        self._watchers: list[Callable[[str], None]] = []
        self._socket = _open(endpoint)
        try:
            self.version, self.n_devices = self._greet()  # llama.cpp's own server may serve several devices
        except BaseException:
            self._socket.close()
            raise

    def _greet(self) -> tuple[bytes, int]:
        """Do llama.cpp's handshake here, because llama.cpp aborts the process on an unexpected answer."""
        device = f"the device at {self.endpoint}"
        try:
            hello = self._ask(Command.HELLO, bytes(HELLO_BYTES))
            if hello[0] != MAJOR:
                raise ModelLoadError(
                    f"{device} uses version {hello[0]}.{hello[1]}.{hello[2]} of llama.cpp's RPC protocol, but this labkit "
                    f"version {MAJOR}: install the same versions of labkit and llama-cpp-python on both sides"
                )
            (n_devices,) = struct.unpack("<I", self._ask(Command.DEVICE_COUNT, b""))
        except TimeoutError as error:
            raise ModelLoadError(
                f"{device} accepts the connection but does not answer: another process may be using it (it serves one at a "
                "time), it may hang, or it is not a device of `labkit device serve`"
            ) from error
        except (OSError, DeviceLostError) as error:
            raise ModelLoadError(
                f"the program at {self.endpoint} is not a device of this version ({error}): start one there with "
                "`labkit device serve`, or correct the address"
            ) from error
        if n_devices == 0:
            raise ModelLoadError(f"{device} serves no devices: restart it with `labkit device serve`")
        self._socket.settimeout(None)
        return hello[:4], n_devices

    def _ask(self, command: Command, payload: bytes) -> bytes:
        self._socket.sendall(HEAD.pack(command, len(payload)) + payload)
        expected = answer_bytes(command, payload) or 0
        return b"".join(bytes(chunk) for chunk in self.receive(expected))[LENGTH.size :]

    # -- for a relay, during its turn ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the device for one request and its answer; when it is lost, watchers are notified before this raises."""
        with self._turn:
            if self.lost is not None:
                raise DeviceLostError(self.lost)
            self.busy_since = time.monotonic()
            try:
                yield
            except Exception as error:  # after a partial message the stream is out of sync
                self.lose(str(error) if isinstance(error, DeviceLostError) else f"{type(error).__name__} in the relay")
                raise
            finally:
                self.busy_since = None

    def send(self, data: bytes | memoryview) -> None:
        """Send all bytes."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise DeviceLostError(self.lost or _reason(error)) from error

    def receive(self, n_bytes: int) -> Iterator[memoryview]:
        """Yield an answer of ``n_bytes``, including its length, in chunks as they arrive; each is valid until the next."""
        buffer = memoryview(bytearray(min(LENGTH.size + n_bytes, _CHUNK)))
        got = 0
        while got < LENGTH.size:
            got += self._receive_into(buffer[got:])
        (length,) = LENGTH.unpack(buffer[: LENGTH.size])
        if length != n_bytes:
            raise DeviceLostError("its answer is not llama.cpp's RPC protocol")
        yield buffer[:got]
        while got < LENGTH.size + n_bytes:
            piece = self._receive_into(buffer[: LENGTH.size + n_bytes - got])
            got += piece
            yield buffer[:piece]

    def _receive_into(self, buffer: memoryview) -> int:
        try:
            n_bytes = self._socket.recv_into(buffer)
        except TimeoutError:
            raise
        except OSError as error:
            raise DeviceLostError(self.lost or _reason(error)) from error
        if n_bytes == 0:
            raise DeviceLostError(self.lost or _HUNG_UP)
        return n_bytes

    # -- for its users -------------------------------------------------------------------------------------------

    def watch(self, notify: Callable[[str], None]) -> None:
        """Call ``notify(reason)`` once when the device is lost; immediately if it is lost already."""
        with self._state:
            self._watchers.append(notify)
            lost = self.lost
        if lost is not None:
            notify(lost)

    def unwatch(self, notify: Callable[[str], None]) -> None:
        """Stop notifying."""
        with self._state, contextlib.suppress(ValueError):
            self._watchers.remove(notify)

    def lose(self, reason: str) -> None:
        """Mark the device as lost: wake waiters, notify watchers."""
        with self._state:
            if self.lost is not None:
                return
            self.lost = reason
            watchers = list(self._watchers)
        for notify in watchers:
            notify(reason)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def busy_s(self) -> float:
        """Return the age of the open request, seconds; 0 without one."""
        since = self.busy_since
        return 0.0 if since is None else time.monotonic() - since

    def check_alive(self) -> bool:
        """Return whether an idle device still holds the connection open."""
        if self.lost is None and self._turn.acquire(blocking=False):
            try:
                self._socket.setblocking(False)
                self._socket.recv(1, socket.MSG_PEEK)
                reason = _HUNG_UP
            except BlockingIOError:
                reason = ""
            except OSError as error:
                reason = _reason(error)
            finally:
                self._socket.setblocking(True)
                self._turn.release()
            if reason:
                self.lose(reason)
        return self.lost is None

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


_connections: dict[Endpoint, Connection] = {}
_registry = threading.Lock()


@contextlib.contextmanager
def connect(endpoint: Endpoint) -> Iterator[Connection]:
    """Use this process's connection to a device; open one if there is none."""
    with _registry:
        connection = _connections.get(endpoint)
        if connection is None or not connection.check_alive():
            connection = _connections[endpoint] = Connection(endpoint)
        connection.n_users += 1
    try:
        yield connection
    finally:
        with _registry:
            connection.n_users -= 1
            if connection.n_users == 0:
                connection.close()
                if _connections.get(endpoint) is connection:
                    del _connections[endpoint]


def _open(endpoint: Endpoint) -> socket.socket:
    start = f"start one with `labkit device serve --endpoint {endpoint}`"
    try:
        opened = socket.create_connection((endpoint.host, endpoint.port), timeout=CONNECT_S)
    except ConnectionRefusedError as error:
        raise ModelLoadError(f"no device listens at {endpoint}: {start}") from error
    except socket.gaierror as error:
        raise ModelLoadError(f"the host of {endpoint} is unknown: correct it, or give its IP address") from error
    except TimeoutError as error:
        raise ModelLoadError(
            f"nothing answered at {endpoint} within {CONNECT_S:.0f} s: is the host on, and reachable?"
        ) from error
    except (OSError, UnicodeError) as error:
        raise ModelLoadError(f"{endpoint} cannot be reached ({_reason(error)}): {start}, or correct the address") from error
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # detect a machine that is switched off
    for name, seconds in _KEEPALIVE_S.items():
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return opened


def _reason(error: Exception) -> str:
    if isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        return _HUNG_UP
    return str(getattr(error, "strerror", None) or error)
