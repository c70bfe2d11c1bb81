"""Read a GGUF header from an untrusted server: range requests only, from a few hundred KB, growing as needed."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from typing import NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

from labkit.checks import visible
from labkit.errors import DownloadError, GGUFError, LabkitError, ModelNotFoundError
from labkit.gguf_file.limited_http import Guard, open_guarded
from labkit.gguf_file.source import gguf_error

_REQUEST_LIMIT_S = 30.0  # one request, from the first byte sent to the last received
_TOTAL_LIMIT_S = 120.0  # all requests of one file
_TOTAL_LIMIT_BYTES = 1 << 26  # 64 MiB; the header of a 262k vocabulary has about 16
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_DOWNLOAD = "download the file and give its path"


class RemoteSource:
    """The file at an ``http(s)`` address, on a server that supports range requests."""

    window_bytes = (1 << 18, 1 << 22)  # 256 KiB, doubling up to 4 MiB

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(_clean(url))
        self.name = urlunsplit(self._parts._replace(query="", fragment=""))  # a query may hold a signature
        self.fetched_bytes = 0
        self._spent_s = 0.0
        self._tag: str | None = None
        self.size = 0
        self._first = self._fetch(0, self.window_bytes[0])

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return exactly ``n_bytes`` from ``offset``, or raise one of the class's errors."""
        if offset + n_bytes <= len(self._first):
            return self._first[offset : offset + n_bytes]
        return self._fetch(offset, n_bytes)

    def sibling(self, file_name: str) -> RemoteSource:
        """Return another file of the same folder, or raise ModelNotFoundError."""
        folder = self._parts.path.rsplit("/", 1)[0]
        return RemoteSource(urlunsplit(self._parts._replace(path=f"{folder}/{quote(file_name)}")))

    def _fetch(self, offset: int, n_bytes: int) -> bytes:
        if self.fetched_bytes + n_bytes > _TOTAL_LIMIT_BYTES:
            self._fail(f"more than {_TOTAL_LIMIT_BYTES >> 20} MiB of header were requested", _DOWNLOAD)
        limit_s = min(_REQUEST_LIMIT_S, _TOTAL_LIMIT_S - self._spent_s)
        if limit_s <= 0:
            self._fail(f"the header did not arrive within {_TOTAL_LIMIT_S:.0f} s", f"try again later, or {_DOWNLOAD}")
        started = time.monotonic()
        guard = Guard(limit_s)
        try:
            with guard:
                data = self._request(offset, n_bytes, guard)
        except LabkitError as error:
            if guard.timed_out:  # a response cut off by the guard looks invalid
                self._unreachable(TimeoutError(), guard)
            raise type(error)(self._line(error)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._unreachable(error, guard)
        finally:
            self._spent_s += time.monotonic() - started
        if guard.timed_out:
            self._unreachable(TimeoutError(), guard)
        self.fetched_bytes += len(data)
        return data

    def _line(self, error: LabkitError) -> str:
        return str(error) if str(error).startswith(visible(self.name, 400)) else f"{visible(self.name, 400)}: {error}"

    def _request(self, offset: int, n_bytes: int, guard: Guard) -> bytes:
        headers = {
            "Range": f"bytes={offset}-{offset + n_bytes - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": "labkit",
        }
        address = urlunsplit(self._parts._replace(fragment=""))
        request = urllib.request.Request(address, headers=headers)  # noqa: S310  # the scheme was checked
        with open_guarded(request, guard) as response:
            expected = self._check(response, offset, n_bytes)
            return self._body(response, expected, offset, guard)

    def _check(self, response: http.client.HTTPResponse, offset: int, n_bytes: int) -> int:
        """Check that the response is the requested range of the same file as before; return its length."""
        if response.status != 206:
            self._fail("the server does not support range requests", _DOWNLOAD)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            self._fail("the server compresses its responses", _DOWNLOAD)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if match is None:
            self._fail("the server sends no Content-Range", _DOWNLOAD)
        first, last, size = map(int, match.groups())
        if first != offset or last != min(offset + n_bytes, size) - 1:
            self._contradict(f"bytes {offset:,} to {offset + n_bytes - 1:,} were requested, {first:,} to {last:,} were sent")
        if self.size not in (0, size):
            self._contradict(f"the file had {self.size:,} bytes before, {size:,} now")
        tag = response.headers.get("ETag")
        if self._tag not in (None, tag):
            self._contradict("the file changed on the server while it was read")
        self._tag, self.size = tag, size
        return last - first + 1

    def _body(self, response: http.client.HTTPResponse, expected: int, offset: int, guard: Guard) -> bytes:
        body = bytearray()
        while len(body) <= expected and not guard.timed_out:
            piece = response.read1(min(1 << 16, expected + 1 - len(body)))
            if not piece:
                break
            body += piece
        if len(body) != expected and not guard.timed_out:
            self._contradict(f"{expected:,} bytes were announced, {len(body):,} arrived", offset)
        return bytes(body)

    def _contradict(self, problem: str, offset: int | None = None) -> NoReturn:
        raise gguf_error(self.name, f"the server contradicts itself, {problem}", offset, "try again, or download the file")

    def _fail(self, problem: str, advice: str) -> NoReturn:
        raise DownloadError(f"{visible(self.name, 400)}: {problem}: {advice}")

    def _unreachable(self, error: Exception, guard: Guard) -> NoReturn:
        name = visible(self.name, 400)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code in (404, 410):
                raise ModelNotFoundError(
                    f"{name}: the server has no such file (status {error.code}): check the address"
                ) from None
            advice = "the model may need a login: log in and download it" if error.code in (401, 403) else _DOWNLOAD
            raise DownloadError(f"{name}: the server answers with status {error.code}: {advice}") from None
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, LabkitError):  # raised while connecting
            raise type(reason)(self._line(reason)) from None
        if guard.timed_out or isinstance(reason, TimeoutError):
            raise DownloadError(f"{name}: no answer within {guard.limit_s:.0f} s: try again later, or {_DOWNLOAD}") from None
        text = visible(str(reason) or type(reason).__name__)
        raise DownloadError(f"{name}: the server cannot be reached ({text}): check the address and the network") from None


def _clean(url: str) -> str:
    """Check an address typed by a user."""
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
        _ = parts.port  # raises where it is not a number
    except ValueError:
        host = None
    if not host or any(ord(char) < 33 or ord(char) == 127 for char in url.strip()):
        raise GGUFError(f"{visible(url, 400)}: not the address of a file: give http(s)://HOST/…/NAME.gguf")
    return quote(url.strip(), safe="%/:=&?~#+!$,;'@()*[]-._")
