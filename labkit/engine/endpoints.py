"""Where a device listens: ``host:port``, read strictly."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import Any

from labkit.engine.arguments import one_line, shown
from labkit.errors import ArgumentError, ArgumentTypeError

__all__ = ["Endpoint", "parse_endpoint"]

_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
_MAX_PORT = 65_535


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A host and a port.

    Examples
    --------
    >>> str(parse_endpoint("localhost:50052"))
    '127.0.0.1:50052'
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> Endpoint:
        """Where to reach from this machine what listens here: 0.0.0.0 is every address of it."""
        return Endpoint("127.0.0.1", self.port) if self.host == "0.0.0.0" else self  # noqa: S104  # read, not bound

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name that only the network can tell
            return False


def parse_endpoint(text: Any, *, name: str = "endpoint", least_port: int = 1) -> Endpoint:
    """Read ``host:port``; ``localhost`` is 127.0.0.1, which is where llama.cpp listens.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        One line that says what is wrong with it.

    Examples
    --------
    >>> parse_endpoint("[::1]:50052").is_loopback
    True
    """
    if not isinstance(text, str):
        raise ArgumentTypeError(f"{name} must be text such as '127.0.0.1:50052', not {shown(text)}")
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ArgumentError(f"{name}={_short(text)}: write an IPv6 address in brackets, such as '[::1]:50052'")
    if not colon or not _is_host(host) or not re.fullmatch(r"[0-9]{1,9}", port):
        raise ArgumentError(f"{name}={_short(text)} is no host and port: write it like '127.0.0.1:50052'")
    if not least_port <= int(port) <= _MAX_PORT:
        raise ArgumentError(f"{name}={_short(text)}: a port is {least_port} to {_MAX_PORT:,}")
    return Endpoint("127.0.0.1" if host.lower() == "localhost" else host, int(port))


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _NAME.fullmatch(host) is not None and not re.fullmatch(r"[0-9.]+", host)
    return True


def _short(text: str) -> str:
    return one_line(repr(text), 80)
