"""A connection to a device: opened with care, shared by this process's models, and lost at most once."""

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

__all__ = ["Connection", "DeviceLostError", "connect", "probe"]

CONNECT_S = 3.0  # what a device may take to be reached, and to say hello
_CHUNK = 1 << 20
_HUNG_UP = "it closed the connection"
_KEEPALIVE_S = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class DeviceLostError(Exception):
    """The device is gone: what was asked of it will never be answered."""


class Connection:
    """One connection, which several models of this process may use in turn, as a device serves one at a time.

    Attributes
    ----------
    n_devices : int
        Devices that are lent there: 1, unless llama.cpp's own server lends more.
    version : bytes
        What the device said at the hello.
    lost : str or None
        Why it can be used no more.
    busy_since : float or None
        When the device was asked what it has not answered yet (``time.monotonic``).
    computes_for : object
        Who sent the graph that the device computed last.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.lost: str | None = None
        self.busy_since: float | None = None
        self.computes_for: object = None
        self.n_users = 0
        self._turn = threading.Lock()
        self._state = threading.Lock()
        self._watchers: list[Callable[[str], None]] = []
        self._socket = _open(endpoint)
        try:
            self.version, self.n_devices = self._greet()
        except BaseException:
            self._socket.close()
            raise

    def _greet(self) -> tuple[bytes, int]:
        """Say hello as llama.cpp would: it ends the process if the answer is not what it expects."""
        device = f"the device at {self.endpoint}"
        try:
            hello = self._ask(Command.HELLO, bytes(HELLO_BYTES))
            if hello[0] != MAJOR:
                raise ModelLoadError(
                    f"{device} speaks version {hello[0]}.{hello[1]}.{hello[2]} of llama.cpp's RPC protocol, and this labkit "
                    f"version {MAJOR}: install the same versions of labkit and llama-cpp-python on both sides"
                )
            (n_devices,) = struct.unpack("<I", self._ask(Command.DEVICE_COUNT, b""))
        except TimeoutError as error:
            raise ModelLoadError(
                f"{device} takes the connection but does not answer: it serves one process at a time, so another one may be "
                "using it; or else it is no device of `labkit device serve`, or hangs"
            ) from error
        except (OSError, DeviceLostError) as error:
            raise ModelLoadError(
                f"what listens at {self.endpoint} is no device of this version ({error}): start one there with "
                "`labkit device serve`, or correct the address"
            ) from error
        if n_devices == 0:
            raise ModelLoadError(f"{device} lends nothing: start it again with `labkit device serve`")
        self._socket.settimeout(None)
        return hello[:4], n_devices

    def _ask(self, command: Command, payload: bytes) -> bytes:
        self._socket.sendall(HEAD.pack(command, len(payload)) + payload)
        expected = answer_bytes(command, payload) or 0
        return b"".join(bytes(chunk) for chunk in self.receive(expected))[LENGTH.size :]

    # -- for a relay, in its turn --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have the device for one request and its answer.

        Raises
        ------
        DeviceLostError
            When it is lost, before or meanwhile; everyone who watches has been told then.
        """
        with self._turn:
            if self.lost is not None:
                raise DeviceLostError(self.lost)
            self.busy_since = time.monotonic()
            try:
                yield
            except Exception as error:  # half a message was passed on, so nothing after it would be understood
                self.lose(str(error) if isinstance(error, DeviceLostError) else f"{type(error).__name__} in the relay")
                raise
            finally:
                self.busy_since = None

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise DeviceLostError(self.lost or _reason(error)) from error

    def receive(self, n_bytes: int) -> Iterator[memoryview]:
        """Yield an answer of ``n_bytes`` in pieces as they come, its length included; each piece lives until the next."""
        buffer = memoryview(bytearray(min(LENGTH.size + n_bytes, _CHUNK)))
        got = 0
        while got < LENGTH.size:
            got += self._receive_into(buffer[got:])
        (length,) = LENGTH.unpack(buffer[: LENGTH.size])
        if length != n_bytes:
            raise DeviceLostError("it answered something that is not llama.cpp's RPC protocol")
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

    def watch(self, tell: Callable[[str], None]) -> None:
        """Call ``tell(reason)`` once when the device is lost; at once if it is already."""
        with self._state:
            self._watchers.append(tell)
            lost = self.lost
        if lost is not None:
            tell(lost)

    def unwatch(self, tell: Callable[[str], None]) -> None:
        """Tell no more."""
        with self._state, contextlib.suppress(ValueError):
            self._watchers.remove(tell)

    def lose(self, reason: str) -> None:
        """Give the device up: whoever waits for it is woken, and everyone who watches is told."""
        with self._state:
            if self.lost is not None:
                return
            self.lost = reason
            watchers = list(self._watchers)
        for tell in watchers:
            tell(reason)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def busy_s(self) -> float:
        """Return for how long the device has not answered what it was asked; 0 when nothing was."""
        since = self.busy_since
        return 0.0 if since is None else time.monotonic() - since

    def check_alive(self) -> bool:
        """Look whether an idle device has closed the connection meanwhile."""
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
        """Hang up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


_connections: dict[Endpoint, Connection] = {}
_registry = threading.Lock()


@contextlib.contextmanager
def connect(endpoint: Endpoint) -> Iterator[Connection]:
    """Hold this process's connection to a device, and open it if there is none.

    Raises
    ------
    ModelLoadError
        In one line, when nothing listens there, it does not answer, or it is something else.
    """
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


def probe(endpoint: Endpoint) -> int:
    """Say hello to a device and return how many it lends."""
    with connect(endpoint) as connection:
        return connection.n_devices


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
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # so that a machine that is switched off is noticed
    for name, seconds in _KEEPALIVE_S.items():
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return opened


def _reason(error: Exception) -> str:
    if isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        return _HUNG_UP
    return str(getattr(error, "strerror", None) or error)
