"""Reading from a server equals reading the file, fetches little, and does not trust the server."""

from __future__ import annotations

import http.server
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import DownloadError, GGUFError, LabkitError, ModelNotFoundError
from labkit.gguf_file import limited_http as guard
from labkit.gguf_file import read_header, remote
from labkit.gguf_file.remote import RemoteSource
from tests import gguf_models as models
from tests import gguf_zoo as zoo
from tests.test_gguf_file import bundled, split


class Server:
    """A loopback server of one folder; `behave` may answer a request instead, and then returns True."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.sent_bytes = 0
        self.behave: Callable[[http.server.BaseHTTPRequestHandler], bool] = lambda handler: False
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # http.server requires this name
                self.close_connection = True
                server.requests.append((self.path, self.headers.get("Range", "")))
                try:
                    if not server.behave(self):
                        server.answer(self)
                except OSError:
                    pass  # the reader closed the connection, as expected

            def log_message(self, *args: Any) -> None:
                return

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        self.port = self._httpd.server_address[1]
        threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def answer(self, handler: http.server.BaseHTTPRequestHandler, **headers: str) -> None:
        """Serve a range correctly; the given headers replace its own."""
        path = self.folder / handler.path.split("?")[0].lstrip("/")
        if not path.is_file():
            handler.send_error(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        assert match is not None, "every request names a range"
        size = path.stat().st_size
        first, last = int(match[1]), min(int(match[2]), size - 1)
        with path.open("rb") as file:
            file.seek(first)
            body = file.read(last - first + 1)
        self.sent_bytes += len(body)
        handler.send_response(206)
        own = {"Content-Range": f"bytes {first}-{last}/{size}", "Content-Length": str(len(body)), "ETag": '"1"'}
        for name, value in {**own, **{key.replace("_", "-"): value for key, value in headers.items()}}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def stop(self) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect without the machine's proxy."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


def redirect(to: str) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
    def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if handler.path.startswith("/target"):
            return False
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return behave


# Well-behaved servers


def test_remote_reading_equals_local_reading() -> None:
    """Keys, types, tensors and lazy arrays of the bundled model are the same from a server, for a fraction of the bytes."""
    path = bundled()
    server = Server(path.parent)
    try:
        far, near = read_header(server.url(path.name)), read_header(path)
        assert list(far.metadata) == list(near.metadata)
        assert far.types == near.types
        assert far.tensors == near.tensors
        assert (far.file_size_bytes, far.data_offset) == (near.file_size_bytes, near.data_offset)
        assert server.sent_bytes < max(0.05 * path.stat().st_size, 8 * 2**20)
        assert far.paths == ()
        assert far.names == (server.url(path.name),)
        tokens = far.metadata["tokenizer.ggml.tokens"]
        assert tokens[:3] == near.metadata["tokenizer.ggml.tokens"][:3]
        assert tokens.read() == near.metadata["tokenizer.ggml.tokens"].read()
    finally:
        server.stop()


def test_a_small_header_takes_one_request(server: Server, tmp_path: Path) -> None:
    """The first 256 KiB are enough for a small model."""
    models.llama().write(tmp_path / "tiny.gguf")
    read_header(server.url("tiny.gguf"))
    assert server.requests == [("/tiny.gguf", "bytes=0-262143")]


def test_query_is_sent_but_not_shown(server: Server, tmp_path: Path) -> None:
    """A signature in an address is sent to the server but is not in messages."""
    zoo.small().write(tmp_path / "small.gguf")
    header = read_header(server.url("small.gguf?signature=secret#part"))
    assert server.requests[0][0] == "/small.gguf?signature=secret"
    assert header.names == (server.url("small.gguf"),)


def test_a_split_model_is_read_from_a_server(server: Server, tmp_path: Path) -> None:
    """Given any part's address, all parts are read; the error for a missing part names it."""
    paths = split(tmp_path, models.llama())
    header = read_header(server.url(paths[1].name))
    assert len(header.tensors) == len(models.llama().tensors)
    assert header.names == tuple(server.url(path.name) for path in paths)
    paths[2].unlink()
    with pytest.raises(ModelNotFoundError, match=r"part 3 of 3 is missing: tiny-00003-of-00003.gguf"):
        read_header(server.url(paths[0].name))


def test_a_redirect_on_the_same_host_is_followed(server: Server, tmp_path: Path) -> None:
    """A redirect to another address on the same server is followed."""
    zoo.small().write(tmp_path / "target.gguf")
    server.behave = redirect("/target.gguf")
    assert read_header(server.url("start.gguf")).architecture == "llama"


def test_hostile_bytes_from_a_server_are_one_line_errors(server: Server, tmp_path: Path) -> None:
    """A web page, an empty answer and a truncated file are refused, as from disk."""
    (tmp_path / "page.gguf").write_bytes(b"<!DOCTYPE html><html></html>")
    with pytest.raises(GGUFError, match=r"this is a web page"):
        read_header(server.url("page.gguf"))
    (tmp_path / "cut.gguf").write_bytes(zoo.small().bytes()[:-50])
    with pytest.raises(GGUFError, match=r"ends inside the data of tensor 'output_norm.weight', 50 bytes"):
        read_header(server.url("cut.gguf"))


# Faulty servers


def _status(code: int) -> Callable[[Server], Callable[[http.server.BaseHTTPRequestHandler], bool]]:
    def make(server: Server) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
        def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
            handler.send_error(code)
            return True

        return behave

    return make


def _headers(**headers: str) -> Callable[[Server], Callable[[http.server.BaseHTTPRequestHandler], bool]]:
    def make(server: Server) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
        def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
            server.answer(handler, **headers)
            return True

        return behave

    return make


def _ignores_ranges(server: Server) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
    def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        while True:  # an endless body, which the reader must not read to the end
            handler.wfile.write(bytes(1 << 16))

    return behave


def _too_much(server: Server) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
    def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-99/100")
        handler.end_headers()
        handler.wfile.write(zoo.small().bytes()[:101])
        return True

    return behave


def _too_short(server: Server) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
    def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{SIZE - 1}/{SIZE}")
        handler.end_headers()
        handler.wfile.write(zoo.small().bytes()[:50])
        return True

    return behave


def _drops(server: Server) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
    def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.connection.shutdown(socket.SHUT_RDWR)
        return True

    return behave


def _sends_garbage(server: Server) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
    def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.wfile.write(b"\x1b[31m220 ftp ready\r\n\r\n")
        return True

    return behave


def _endless_headers(server: Server) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
    def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.send_response(206)
        for index in range(10_000):
            handler.send_header(f"X-{index}", "x" * 100)
        handler.end_headers()
        return True

    return behave


SIZE = len(zoo.small().bytes())
BAD_SERVERS: dict[str, tuple[Any, type[LabkitError], str]] = {
    "no such file": (_status(404), ModelNotFoundError, r"no such file \(status 404\)"),
    "gone": (_status(410), ModelNotFoundError, r"status 410"),
    "login": (_status(401), DownloadError, r"status 401: the model may need a login"),
    "forbidden": (_status(403), DownloadError, r"status 403: the model may need a login"),
    "range refused": (_status(416), DownloadError, r"status 416"),
    "broken": (_status(503), DownloadError, r"status 503"),
    "ignores ranges": (_ignores_ranges, DownloadError, r"does not support range requests: download the file"),
    "compresses": (_headers(Content_Encoding="gzip"), DownloadError, r"compresses its responses"),
    "names no range": (_headers(Content_Range=""), DownloadError, r"sends no Content-Range"),
    "names nonsense": (_headers(Content_Range="bytes x-y/z"), DownloadError, r"sends no Content-Range"),
    "unknown size": (_headers(Content_Range="bytes 0-99/*"), DownloadError, r"sends no Content-Range"),
    "negative size": (_headers(Content_Range="bytes 0-99/-5"), DownloadError, r"sends no Content-Range"),
    "wrong place": (_headers(Content_Range=f"bytes 7-{SIZE - 1}/{SIZE}"), GGUFError, r"7 to .* were sent"),
    "size too large": (_headers(Content_Range=f"bytes 0-{SIZE - 1}/{SIZE + 9}"), GGUFError, r"contradicts itself"),
    "size too small": (_headers(Content_Range="bytes 0-99/100"), GGUFError, r"100 bytes were announced, 101 arrived"),
    "huge size": (_headers(Content_Range=f"bytes 0-262143/{1 << 60}"), LabkitError, r"announced|cannot be reached"),
    "too short": (_too_short, GGUFError, r"bytes were announced, 50 arrived"),
    "too much": (_too_much, GGUFError, r"100 bytes were announced, 101 arrived"),
    "drops": (_drops, DownloadError, r"cannot be reached"),
    "gibberish": (_sends_garbage, DownloadError, r"cannot be reached"),
    "endless headers": (_endless_headers, DownloadError, r"cannot be reached"),
}


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_faulty_server_is_a_one_line_error(server: Server, tmp_path: Path, name: str) -> None:
    """Each fault of a server is soon one printable line that says what is wrong and what to do."""
    make, kind, expect = BAD_SERVERS[name]
    zoo.small().write(tmp_path / "small.gguf")
    server.behave = make(server)
    started = time.monotonic()
    with pytest.raises(kind, match=expect) as caught:
        read_header(server.url("small.gguf"))
    assert time.monotonic() - started < 5
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(server.url("small.gguf"))


def test_file_that_changes_on_the_server_is_an_error(server: Server) -> None:
    """Size and ETag must be the same in all answers."""
    path = bundled()
    server.folder = path.parent

    def later(**headers: str) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
        def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
            server.answer(handler, **(headers if len(server.requests) > 1 else {}))
            return True

        return behave

    server.behave = later(ETag='"2"')
    with pytest.raises(GGUFError, match=r"changed on the server"):
        read_header(server.url(path.name))


@pytest.mark.parametrize(
    ("to", "expect"),
    [
        ("http://127.0.0.1:9/target.gguf", r"'127.0.0.1', which is not a public host"),
        ("http://localhost:9/target.gguf", r"'localhost', which is not a public host"),
        ("http://10.0.0.1/target.gguf", r"'10.0.0.1', which is not a public host"),
        ("http://169.254.169.254/latest/meta-data", r"not a public host"),
        ("http://[::1]:9/target.gguf", r"'::1', which is not a public host"),
        ("http://[::ffff:127.0.0.1]:9/target.gguf", r"not a public host"),
        ("http://[64:ff9b::7f00:1]/target.gguf", r"not a public host"),
        ("http://0.0.0.0/target.gguf", r"not a public host"),
        ("file:///etc/passwd", r"redirects|status 302|cannot be reached"),
        ("ftp://example.org/target.gguf", r"redirects from http to 'ftp'|status 302|cannot be reached"),
    ],
)
def test_a_redirect_to_a_private_host_is_not_followed(server: Server, to: str, expect: str) -> None:
    """A redirect to this machine, a private network or another protocol is refused."""
    server.behave = redirect(to)
    with pytest.raises(DownloadError, match=expect):
        read_header(server.url("start.gguf"))


def test_name_that_turns_private_is_refused_when_connecting(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves first to a public address and then to this machine is refused when connecting."""
    server.behave = redirect("http://rebinding.example:80/target.gguf")
    monkeypatch.setattr(guard, "_refuse_private_name", lambda host: None)
    connect = socket.create_connection

    def rebound(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        return connect(("127.0.0.1", server.port), *args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", rebound)
    with pytest.raises(DownloadError, match=r"'rebinding.example', which is not a public host"):
        read_header(server.url("start.gguf"))


def test_endless_redirects_end(server: Server) -> None:
    """A redirect loop is an error."""
    server.behave = redirect("/start.gguf")
    with pytest.raises(DownloadError, match=r"status 302"):
        read_header(server.url("start.gguf"))


def _stall(when: str) -> Callable[[http.server.BaseHTTPRequestHandler], bool]:
    def behave(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if when != "at once":
            handler.wfile.write(b"HTTP/1.1 206 Partial\r\n")
        if when == "body":
            handler.wfile.write(b"Content-Range: bytes 0-262143/300000\r\nContent-Length: 262144\r\n\r\nGGUF")
        for _ in range(100):  # one byte now and then keeps a socket's own timeout from expiring
            if when == "headers":
                handler.wfile.write(b"x")
            elif when == "body":
                handler.wfile.write(b"\0")
            time.sleep(0.1)
        return True

    return behave


@pytest.mark.parametrize("when", ["at once", "headers", "body"])
def test_stalling_server_hits_the_time_limit(server: Server, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """A server that sends nothing, or one byte now and then, is abandoned at the time limit of one request."""
    monkeypatch.setattr(remote, "_REQUEST_LIMIT_S", 0.5)
    server.behave = _stall(when)
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"no answer within 0 s|no answer within 1 s"):
        read_header(server.url("slow.gguf"))
    assert time.monotonic() - started < 4


def test_more_than_a_header_is_not_fetched(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless header is abandoned at the byte limit."""
    monkeypatch.setattr(remote, "_TOTAL_LIMIT_BYTES", 1 << 20)
    raw = zoo.small()
    raw.keys[20] = zoo.key("tokenizer.ggml.tokens", zoo.ARRAY, ["x" * 1000] * 4000, zoo.STRING)
    raw.write(tmp_path / "long.gguf")
    with pytest.raises(DownloadError, match=r"more than 1 MiB of header were requested"):
        read_header(server.url("long.gguf"))
    assert server.sent_bytes <= 1 << 20


def test_all_requests_together_have_a_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The total time of many slow requests is limited."""
    monkeypatch.setattr(remote, "_TOTAL_LIMIT_S", 0.0)
    with pytest.raises(DownloadError, match=r"did not arrive within 0 s"):
        RemoteSource(server.url("any.gguf"))


@pytest.mark.parametrize(
    "url", ["http://", "https:///x.gguf", "http://host:port/x", "http://a b/x.gguf", "http://h/\nx", "http://[::1"]
)
def test_invalid_address_is_refused(url: str) -> None:
    """An address without a host, with a bad port or with control characters is refused."""
    with pytest.raises(LabkitError) as caught:
        read_header(url)
    assert str(caught.value).isprintable()


def test_unreachable_server_is_a_one_line_error() -> None:
    """The error for a refused connection or an unknown host says what to check."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DownloadError, match=r"cannot be reached .*check the address and the network"):
        read_header(f"http://127.0.0.1:{port}/x.gguf")
