"""A relay between llama.cpp and a device, so that losing the device does not abort this process.

llama.cpp aborts the process (``GGML_ABORT``) on an unexpected answer from a device. Therefore it gets an address in this
process instead, where a thread forwards its requests and the device's answers. When the device is lost, the models that use
it are notified, and the thread answers instead of the device: it accepts all data and answers with zeros, so the
computation finishes normally and all memory can be freed. The result is discarded.

References
----------
llama.cpp ``ggml/src/ggml-rpc/ggml-rpc.cpp`` (``RPC_STATUS_ASSERT``, ``rpc_dispatcher``).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from io import BufferedReader

from labkit.devices.connection import Connection
from labkit.devices.rpc_protocol import HEAD, HELLO_BYTES, LENGTH, Command, answer_bytes, substitute_answer

_CHUNK = 1 << 20
_WHOLE = 1 << 16  # a request up to this size is forwarded as a whole
_used_ports: set[int] = set()  # llama.cpp caches what it knows of an address for the life of the process
_ports = threading.Lock()


class Relay:
    """One model's path to a device; llama.cpp connects to its ``address``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._graph: bytes | None = None
        self._closed = False
        self._listener = _listen()
        host, port = self._listener.getsockname()
        self.address = f"{host}:{port}"
        _RelayThread(target=self._serve, name="labkit-device", daemon=True).start()

    @staticmethod
    def is_here() -> bool:
        """Whether the calling thread is a relay's: waiting for a model there would deadlock."""
        return isinstance(threading.current_thread(), _RelayThread)

    def close(self) -> None:
        """Accept no more connections; an open one is served until llama.cpp closes it."""
        self._closed = True
        with contextlib.suppress(OSError), socket.create_connection(self._listener.getsockname(), timeout=1):
            pass  # wakes the thread
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while not self._closed:
                client, _ = self._listener.accept()
                with client:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._serve_client(client)

    def _serve_client(self, client: socket.socket) -> None:
        """Forward the requests of one connection; llama.cpp opens a new connection whenever it holds no buffer."""
        reader = client.makefile("rb")
        with contextlib.suppress(EOFError, OSError), reader:
            while True:
                command, size = HEAD.unpack(_take(reader, HEAD.size))
                whole = size if command == Command.GRAPH_COMPUTE else min(size, _WHOLE)
                payload = _take(reader, whole)
                if command == Command.HELLO:  # already sent to the device
                    client.sendall(LENGTH.pack(4 + HELLO_BYTES) + self._connection.version + bytes(HELLO_BYTES))
                else:
                    self._pass_on(client, reader, command, payload, size)

    def _pass_on(self, client: socket.socket, reader: BufferedReader, command: int, payload: bytes, size: int) -> None:
        left, answered = size - len(payload), 0
        n_answer = answer_bytes(command, payload)
        device = self._connection
        try:
            with device.turn():
                device.send(self._in_turn(command, payload, size))
                for piece in _pieces(reader, left):
                    left -= len(piece)
                    device.send(piece)
                if n_answer is not None:
                    for answer_piece in device.receive(n_answer):
                        client.sendall(answer_piece)
                        answered += len(answer_piece)
        except Exception:  # the device is lost, for any reason: llama.cpp gets answers anyway
            for _ in _pieces(reader, left):
                pass
            if n_answer is not None:
                answer = LENGTH.pack(n_answer) + substitute_answer(command, payload, n_answer)
                client.sendall(answer[answered:])

    def _in_turn(self, command: int, payload: bytes, size: int) -> bytes:
        """Return the bytes to send; "compute the last graph again" must refer to this model's last graph, not another's."""
        if command == Command.GRAPH_COMPUTE:
            self._graph = payload
        elif command == Command.GRAPH_RECOMPUTE and self._graph is not None and self._connection.computes_for is not self:
            command, payload, size = Command.GRAPH_COMPUTE, self._graph, len(self._graph)
        if command == Command.GRAPH_COMPUTE:
            self._connection.computes_for = self
        return HEAD.pack(command, size) + payload


class _RelayThread(threading.Thread):
    pass


def _take(reader: BufferedReader, n_bytes: int) -> bytes:
    """Return exactly ``n_bytes``."""
    data = reader.read(n_bytes)
    if len(data) < n_bytes:
        raise EOFError
    return data


def _pieces(reader: BufferedReader, n_bytes: int) -> Iterator[bytes]:
    """Yield ``n_bytes`` in chunks as they arrive."""
    while n_bytes:
        piece = reader.read1(min(n_bytes, _CHUNK))
        if not piece:
            raise EOFError
        n_bytes -= len(piece)
        yield piece


def _listen() -> socket.socket:
    """Listen on a local port that no relay of this process has used before."""
    rejected = []
    with _ports:
        while True:
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            if port not in _used_ports:
                break
            rejected.append(listener)
        _used_ports.add(port)
    for other in rejected:
        other.close()
    return listener
