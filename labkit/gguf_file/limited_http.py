"""Limits for an untrusted server: a time limit on the whole request, and redirects to public hosts only."""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import socket
import threading
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from labkit.errors import DownloadError

_STEP_TIMEOUT_S = 10.0  # silence on the line
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv6 addresses that map to IPv4


class Guard:
    """Time limit of one request: when it expires, another thread calls `abort`, which cuts the connection.

    A socket's own timeout covers only the gap between two bytes, so a server that sends a byte now and then could hold the
    client for hours; this limit covers the whole request.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.timed_out = False
        self.public_host: str | None = None  # after a redirect: the host whose address must be public
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(limit_s, self.abort)
        self._timer.daemon = True

    def __enter__(self) -> Guard:
        self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()
        if self._socket is not None:
            self._socket.close()

    def abort(self) -> None:
        """Cut the connection."""
        self.timed_out = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it may already be closed
                self._socket.shutdown(socket.SHUT_RDWR)

    def connect(self, host: str, address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        """Connect, refuse a private peer after a redirect, and keep a handle for `abort`."""
        if self.timed_out:
            raise TimeoutError("timed out")
        raw = socket.create_connection(address, *args, **kwargs)
        if self._socket is not None:
            self._socket.close()
        self._socket = raw.dup()  # TLS takes over the first handle; `abort` needs its own
        if self.public_host == host and not _is_public(raw.getpeername()[0]):
            raw.close()
            raise DownloadError(_private(host))
        return raw


def _private(host: str) -> str:
    return f"redirects to {host!r}, which is not a public host: give the final address yourself if you trust it"


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.split("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        elif address.ipv4_mapped is not None:
            address = address.ipv4_mapped
    return address.is_global and not address.is_multicast


class _Connections(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._connect, http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._connect, http.client.HTTPSConnection), req)

    def _connect(self, kind: Any, host: str, **kwargs: Any) -> Any:
        connection = kind(host, **kwargs)
        connection._create_connection = functools.partial(self._guard.connect, connection.host)
        return connection


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
            raise DownloadError(f"redirects from {old.scheme} to {new.scheme!r}: give an https address")
        if (new.hostname, new.port) != (old.hostname, old.port):
            self._guard.public_host = new.hostname
            _refuse_private_name(new.hostname or "")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_private_name(host: str) -> None:
    """Refuse a host that resolves to a private address; the connection itself is checked again (the name may change)."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return  # behind a proxy, names may not resolve here; the connection is checked too
    if not all(map(_is_public, found)):
        raise DownloadError(_private(host))


def open_guarded(request: urllib.request.Request, guard: Guard) -> http.client.HTTPResponse:
    """Open a request under a guard; proxies from the environment are used as usual."""
    opener = urllib.request.build_opener(_Connections(guard), _Redirects(guard))
    response: http.client.HTTPResponse = opener.open(request, timeout=min(_STEP_TIMEOUT_S, guard.limit_s))
    return response
