"""A model hub on the loopback interface with the API that huggingface_hub uses; tests can inject faults.

Like the real hub it answers ``resolve`` with a redirect to another host for the bytes (here ``localhost`` instead of
``127.0.0.1``), and announces Xet storage, which a plain download may ignore.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import huggingface_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_STEP_BYTES = 64 * 1024


class Request(NamedTuple):
    """One request to the hub."""

    method: str
    path: str
    range: str | None
    has_token: bool


@dataclass
class Hub:
    """The hub's files, its injected faults, and the requests it received."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    claimed_sha256: dict[str, str] = field(default_factory=dict)  # by file name: the announced checksum, right or wrong
    gated: set[str] = field(default_factory=set)
    statuses: list[int] = field(default_factory=list)  # error statuses for the next requests for bytes
    cuts: list[int] = field(default_factory=list)  # offsets at which the next transfers are cut
    ignore_range: bool = False
    at_offset: tuple[int, Callable[[], None]] | None = None  # called when the transfer reaches this offset
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, repository: str, filename: str, content: bytes) -> str:
        """Put a file on the hub and return its checksum."""
        self.files[repository, filename] = content
        return hashlib.sha256(content).hexdigest()

    def etag(self, filename: str, content: bytes) -> str:
        return self.claimed_sha256.get(filename) or hashlib.sha256(content).hexdigest()

    @property
    def ranges(self) -> list[str | None]:
        """The Range headers of the requests for bytes, in order."""
        return [request.range for request in self.requests if request.path.startswith("/cdn/")]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may disconnect
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve a hub during the ``with`` block."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = _Server(("127.0.0.1", 0), Handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        huggingface_hub.close_session()  # its open connections would keep the server's threads
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        has_token = "Authorization" in self.headers
        self.state.requests.append(Request(self.command, path, self.headers.get("Range"), has_token))
        if listing := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/main)?", path):
            self._list(listing[1], tree=listing[2] == "tree")
        elif bytes_at := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._send_bytes(self.state.files[bytes_at[1], bytes_at[2]])
        elif resolve := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._resolve(resolve[1], resolve[2])
        else:
            self._empty(404)

    def _empty(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _list(self, repository: str, *, tree: bool) -> None:
        names = sorted(name for owner, name in self.state.files if owner == repository)
        if not names:
            return self._empty(401, X_Error_Code="RepoNotFound")
        entries = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
        info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        body = json.dumps(entries if tree else info).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        return None

    def _resolve(self, repository: str, filename: str) -> None:
        if repository in self.state.gated:
            return self._empty(403 if "Authorization" in self.headers else 401, X_Error_Code="GatedRepo")
        if not any(owner == repository for owner, _ in self.state.files):
            return self._empty(401, X_Error_Code="RepoNotFound")
        content = self.state.files.get((repository, filename))
        if content is None:
            return self._empty(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        etag = self.state.etag(filename, content)
        return self._empty(
            302,
            Location=f"http://localhost:{self.state.port}/cdn/{repository}/{filename}?signature=x",
            ETag=f'"{etag}"',
            X_Linked_Etag=f'"{etag}"',
            X_Linked_Size=str(len(content)),
            X_Repo_Commit=COMMIT,
            X_Xet_Hash="f" * 64,
            X_Xet_Refresh_Route=f"/api/models/{repository}/xet-read-token/{COMMIT}",
        )

    def _send_bytes(self, content: bytes) -> None:
        if self.state.statuses:
            return self._empty(self.state.statuses.pop(0))
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and not self.state.ignore_range:
            start = int(wanted[1])
            if start >= len(content):
                return self._empty(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        return self._write(content, start)

    def _write(self, content: bytes, start: int) -> None:
        end = self.state.cuts.pop(0) if self.state.cuts else len(content)
        for offset in range(start, end, _STEP_BYTES):
            self.wfile.write(content[offset : min(offset + _STEP_BYTES, end)])
            if self.state.at_offset and offset >= self.state.at_offset[0]:
                _, call = self.state.at_offset
                self.state.at_offset = None
                time.sleep(0.5)  # until the client has read the socket's buffers
                call()
                time.sleep(0.5)  # so that the rest does not arrive before the interrupt
        self.close_connection = self.close_connection or end < len(content)
