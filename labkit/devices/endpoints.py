"""The address of a device: ``host:port``, parsed strictly."""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import re
import socket
import sys
import time
from typing import Any

from labkit.checks import one_line, shown
from labkit.errors import ArgumentError, ArgumentTypeError, LabkitError

_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
_MAX_PORT = 65_535


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> Endpoint:
        """The address for connections from this machine; 0.0.0.0 stands for all of its addresses."""
        return Endpoint("127.0.0.1", self.port) if self.host == "0.0.0.0" else self  # noqa: S104  # read, not bound

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name that needs a lookup
            return False


def parse_endpoint(text: Any, *, name: str = "endpoint", least_port: int = 1) -> Endpoint:
    """Parse ``host:port``; ``localhost`` is 127.0.0.1, where llama.cpp listens."""
    if not isinstance(text, str):
        raise ArgumentTypeError(f"{name} must be text such as '127.0.0.1:50052', not {shown(text)}")
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ArgumentError(f"{name}={_short(text)}: write an IPv6 address in brackets, such as '[::1]:50052'")
    if not colon or not _is_host(host) or not re.fullmatch(r"[0-9]{1,9}", port):
        raise ArgumentError(f"{name}={_short(text)} is not host:port: write it like '127.0.0.1:50052'")
    if not least_port <= int(port) <= _MAX_PORT:
        raise ArgumentError(f"{name}={_short(text)}: the port must be {least_port} to {_MAX_PORT:,}")
    return Endpoint("127.0.0.1" if host.lower() == "localhost" else host, int(port))


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _NAME.fullmatch(host) is not None and not re.fullmatch(r"[0-9.]+", host)
    return True


def _short(text: str) -> str:
    return one_line(repr(text), 80)


_RELEASE_S = 0.5  # time for a stopped process to release its port


def free_port(endpoint: Endpoint) -> int:
    """Return the endpoint's port if it is free; for port 0, a free port chosen by the system."""
    deadline = time.monotonic() + _RELEASE_S
    while True:
        try:
            return _try(endpoint)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise LabkitError(f"cannot listen at {endpoint}: {_why(error)}") from error
            time.sleep(0.02)


def _try(endpoint: Endpoint) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        if sys.platform == "win32":
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # otherwise programs can share a port
        else:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # reuse a port released a moment ago
        trial.bind((endpoint.host, endpoint.port))
        trial.listen(1)
        return int(trial.getsockname()[1])


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program already listens there: choose another port, or port 0 for a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address: use 127.0.0.1, or an address of this machine"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "the system does not allow that port: choose 1,024 or above"
    if isinstance(error, socket.gaierror):
        return "the host is unknown: give an IP address of this machine"
    return str(error.strerror or error)
