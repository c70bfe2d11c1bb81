"""The part of llama.cpp's RPC protocol that a relay needs: commands, and the length of each answer.

A request is a command (1 byte), a length (8 bytes) and that many bytes; an answer is a length and that many bytes. Whether a
command has an answer, and its length, depend only on the command; for ``GET_TENSOR`` the length is in the request.

References
----------
llama.cpp ``ggml/src/ggml-rpc/ggml-rpc.cpp`` (``enum rpc_cmd``, ``rpc_serve_client``), ``ggml/include/ggml-rpc.h``.
"""

from __future__ import annotations

import enum
import struct

from labkit.errors import ModelLoadError
from labkit.system import EngineBuild, rebuild_command

MAJOR = 7  # of the protocol's version; features of minor versions are used only if both sides have them
HEAD = struct.Struct("<BQ")
LENGTH = struct.Struct("<Q")
HELLO_BYTES = 24  # each side's faster transports: zeros for none
_ALLOCATION = struct.Struct("<IQ")
_PAIR = struct.Struct("<QQ")
_SOME_ADDRESS = 1 << 20
_SOME_ALIGNMENT = 128


class Command(enum.IntEnum):
    """The protocol's commands that a relay needs to know."""

    ALLOC_BUFFER = 0
    GET_ALIGNMENT = 1
    GET_MAX_SIZE = 2
    BUFFER_GET_BASE = 3
    FREE_BUFFER = 4
    SET_TENSOR_HASH = 7
    GET_TENSOR = 8
    COPY_TENSOR = 9
    GRAPH_COMPUTE = 10
    GET_DEVICE_MEMORY = 11
    GET_ALLOC_SIZE = 13
    HELLO = 14
    DEVICE_COUNT = 15
    GRAPH_RECOMPUTE = 16


_ANSWER_BYTES: dict[int, int] = {
    Command.ALLOC_BUFFER: 16, Command.GET_ALIGNMENT: 8, Command.GET_MAX_SIZE: 8, Command.BUFFER_GET_BASE: 8,
    Command.SET_TENSOR_HASH: 1, Command.COPY_TENSOR: 1, Command.GET_DEVICE_MEMORY: 16, Command.GET_ALLOC_SIZE: 8,
    Command.HELLO: 4 + HELLO_BYTES, Command.DEVICE_COUNT: 4,
}  # fmt: skip


def answer_bytes(command: int, payload: bytes) -> int | None:
    """Return the size of the answer to a request, without its length field; None for no answer."""
    if command == Command.GET_TENSOR:
        return int(LENGTH.unpack(payload[-LENGTH.size :])[0])
    return _ANSWER_BYTES.get(command)


def substitute_answer(command: int, payload: bytes, n_bytes: int) -> bytes:
    """Return an answer for a lost device with which llama.cpp can finish its computation.

    Buffers are granted and numbers are zeros; no result computed from them may reach a caller.
    """
    if command == Command.ALLOC_BUFFER:
        return _PAIR.pack(_SOME_ADDRESS, _ALLOCATION.unpack(payload)[1])
    if command == Command.BUFFER_GET_BASE:
        return LENGTH.pack(_SOME_ADDRESS)
    if command == Command.GET_ALIGNMENT:
        return LENGTH.pack(_SOME_ALIGNMENT)
    if command == Command.GET_MAX_SIZE:
        return b"\xff" * n_bytes
    if command in (Command.SET_TENSOR_HASH, Command.COPY_TENSOR):
        return b"\x01"  # "cached": so that no weights are sent
    return bytes(n_bytes)


def check_rpc(build: EngineBuild) -> None:
    """Raise an error if this llama.cpp has no RPC; it says how to install a build with it."""
    if not build.has_rpc:
        raise ModelLoadError(
            "this llama.cpp was built without RPC, so it cannot use a device in another process: build it again with "
            f"{rebuild_command()}"
        )
