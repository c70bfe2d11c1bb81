"""The paths of the server, and what guards them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from labkit.model_info import get_model_info
from labkit.serve.answers import DONE, Form, event
from labkit.serve.metrics import Metrics
from labkit.serve.requests import ApiError, Prepared, api_error, prepare, read_json, unavailable
from labkit.serve.scheduler import Piece, Scheduler, Ticket
from labkit.units import counted

if TYPE_CHECKING:
    from labkit.engine.model import Model

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_BODIES_BYTES = 256 * 1024 * 1024  # of all bodies that are arriving
BODY_LIMIT_S = 30.0  # for a whole body to arrive
SEND_LIMIT_S = 60.0  # for a client to read what fills its buffers
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
_PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_GONE = Piece("")  # the client left


class App:
    """The server's state and its paths; ``scheduler`` is None for a model that was loaded for embeddings."""

    def __init__(self, model: Model, scheduler: Scheduler | None, n_ctx: int, max_waiting: int, api_key: str | None) -> None:
        self.model, self.scheduler, self.n_ctx, self.api_key = model, scheduler, n_ctx, api_key
        self.n_most = max_waiting + (1 if scheduler is None else scheduler.n_parallel)
        self.n_open = 0
        self.is_loopback = True
        self._request_s = 1.0  # a moving average, for Retry-After
        self.model_id = Path(model.model_path).stem
        info = get_model_info(model.model_path)
        meta = {"n_ctx": n_ctx, "n_params": info.parameter_count, "size": info.file_size_bytes}
        about = {"id": self.model_id, "object": "model", "created": int(time.time()), "owned_by": "labkit"}
        self._entry = {**about, "meta": meta}
        self._n_body_bytes = 0
        self.metrics = Metrics(self._running, lambda: max(0.0, self.n_open - self._running()), self._stored)
        self._embedding = asyncio.Lock()

    def _running(self) -> float:
        return 0.0 if self.scheduler is None else self.scheduler.n_running

    def _stored(self) -> float:
        return 0.0 if self.scheduler is None else self.scheduler.store.n_bytes

    def starlette(self) -> Any:
        """Return the ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{model}", self.models),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/embeddings", self.embed, methods=["POST"]),
        ]
        # as in llama.cpp's server, also without the /v1 that a client's base_url may lack
        routes += [
            Route(one.path[3:], one.endpoint, methods=list(one.methods or ())) for one in routes if one.path[:4] == "/v1/"
        ]
        paths = {route.path for route in routes}
        handlers: Any = {ApiError: _answer_error, HTTPException: _answer_error, Exception: _answer_error}
        app = Starlette(routes=routes, exception_handlers=handlers)

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            await self._guard(app, paths, scope, receive, send)

        return guarded

    # -- who may ask ------------------------------------------------------------------------------------------------

    async def _guard(self, app: Any, paths: set[str], scope: Any, receive: Any, send: Any) -> None:
        """Answer only clients that may ask, and count the answers."""

        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in paths else "other"
                self.metrics.answers.labels(path, message["status"]).inc()
            await send(message)

        refused = self._refusal(Request(scope))
        await (app if refused is None else _response(refused))(scope, receive, counting)

    def _refusal(self, request: Request) -> ApiError | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname or ""
            foreign = origin is not None and urlsplit(origin).netloc != host
        except ValueError:
            return ApiError(400, "the Host or Origin header is not valid")
        # Without these two checks, any page in this machine's browser could use the server.
        if foreign or (self.is_loopback and name not in _LOOPBACK):
            return ApiError(403, "this server answers programs and its own page, not pages of other hosts")
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        is_open = self.api_key is None or request.scope["path"] in ("/", "/health")
        if not is_open and not hmac.compare_digest(given.encode(), (self.api_key or "").encode()):
            return ApiError(
                401, "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'", "invalid_api_key"
            )
        return None

    async def _body(self, request: Request) -> bytes:
        """Return a body; one that is too large is read and dropped, so that its sender gets the answer."""
        data, size, late = bytearray(), 0, False

        async def read() -> None:
            nonlocal size
            async for chunk in request.stream():
                size += len(chunk)
                self._n_body_bytes += len(chunk) if size <= MAX_BODY_BYTES else -len(data)
                data.extend(chunk) if size <= MAX_BODY_BYTES else data.clear()
                if self._n_body_bytes > MAX_BODIES_BYTES:
                    raise unavailable("too many large requests are arriving")

        try:
            await asyncio.wait_for(read(), BODY_LIMIT_S)
        except asyncio.TimeoutError:
            late = True
        except ClientDisconnect:
            raise unavailable("the client left") from None  # and reads no answer
        finally:
            self._n_body_bytes -= len(data)
        if size > MAX_BODY_BYTES:
            message = f"the body is larger than {MAX_BODY_BYTES:,} bytes: send a shorter text"
            raise ApiError(413, message, "body_too_large", {"connection": "close"})
        if late:
            raise ApiError(408, f"the body did not arrive within {BODY_LIMIT_S:g} s", None, {"connection": "close"})
        return bytes(data)

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        """Count a request; refuse it if the queue is full."""
        if self.n_open >= self.n_most:
            n_slots = 1 if self.scheduler is None else self.scheduler.n_parallel
            wait_s = min(60, math.ceil(self._request_s * self.n_open / n_slots))
            waiting = counted(self.n_open - n_slots, "request")
            message = f"all slots are busy, with {waiting} waiting: try again in {wait_s} s"
            raise ApiError(429, message, "queue_full", {"retry-after": str(wait_s)})
        self.n_open += 1
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.n_open -= 1
            self._request_s += 0.1 * (time.perf_counter() - started_s - self._request_s)

    # -- the paths --------------------------------------------------------------------------------------------------

    async def page(self, _request: Request) -> Response:
        """Show a chat."""
        page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
        return HTMLResponse(page, headers={"content-security-policy": _PAGE_POLICY})

    async def health(self, _request: Request) -> Response:
        """Say whether the model can answer."""
        if self.model.is_closed:
            raise unavailable("the model was closed")
        return JSONResponse({"status": "ok"})

    async def show_metrics(self, _request: Request) -> Response:
        """Return the figures for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """Describe the one model."""
        wanted = request.path_params.get("model")
        if wanted not in (None, self.model_id):
            raise ApiError(404, f"there is no model {wanted!r}: this server has {self.model_id!r}", "model_not_found")
        return JSONResponse(self._entry if wanted else {"object": "list", "data": [self._entry]})

    async def chat(self, request: Request) -> Any:
        """Answer a conversation."""
        return Generation(self, self._generating(), await self._body(request), is_chat=True)

    async def complete(self, request: Request) -> Any:
        """Continue a text."""
        return Generation(self, self._generating(), await self._body(request), is_chat=False)

    def _generating(self) -> Scheduler:
        if self.scheduler is None:
            raise ApiError(400, "this model was loaded for embeddings: start the server without --embedding")
        return self.scheduler

    def _embed(self, texts: list[str]) -> Any:
        if int(self.model.pooling_type()) == 0:
            message = "this model gives a vector per token, not per text: load it with pooling_type=1, their mean"
            raise ApiError(400, message, "unsupported")
        with self.model.vocabulary() as tokenizer:
            longest = max(len(tokenizer.tokenize(text, add_special=True)) for text in texts)
        n_batch = self.model.n_batch  # llama-cpp-python would drop the rest in silence
        if longest > min(self.n_ctx, n_batch):
            message = f"a text has {longest:,} tokens, too many for n_ctx={self.n_ctx:,} and n_batch={n_batch:,}: split it"
            raise ApiError(400, message, "context_length_exceeded")
        return self.model.create_embedding(texts)

    async def embed(self, request: Request) -> Response:
        """Return the embeddings of texts."""
        body = read_json(await self._body(request))
        if self.scheduler is not None:
            raise ApiError(400, "this model was loaded to generate text: start the server with --embedding", "unsupported")
        given = body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise ApiError(400, "input must be a text or a list of texts, none of them empty", "invalid_value")
        form = body.get("encoding_format") or "float"
        if form not in ("float", "base64"):
            raise ApiError(400, 'encoding_format must be "float" or "base64"', "invalid_value")
        if body.get("dimensions") is not None:
            raise ApiError(400, "this server does not support 'dimensions': leave it out", "unsupported_parameter")
        with self._admitted():
            async with self._embedding:
                found = await asyncio.to_thread(self._embed, texts)
        if form == "base64":  # what OpenAI's client asks for
            for one in found["data"]:
                numbers = struct.pack(f"<{len(one['embedding'])}f", *one["embedding"])
                one["embedding"] = base64.b64encode(numbers).decode()
        return JSONResponse({**found, "model": self.model_id})


class Generation:
    """One answer, whole or streamed; a client that leaves frees its slot at the next step."""

    def __init__(self, app: App, scheduler: Scheduler, data: bytes, *, is_chat: bool) -> None:
        self._app, self._scheduler, self._data, self._is_chat = app, scheduler, data, is_chat
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer the request."""
        with self._app._admitted():
            watch = asyncio.create_task(self._watch(receive))
            try:
                prepared = await asyncio.to_thread(self._prepare)
                ticket = Ticket(prepared, self._pieces.put_nowait)
                self._scheduler.submit(ticket)
                try:
                    form = Form(self._app.model_id, ticket)
                    if prepared.stream:
                        await self._stream(form, send)
                    else:
                        await self._whole(form, scope, receive, send)
                finally:
                    ticket.cancelled = True
                    self._app.metrics.ended(ticket)
            finally:
                watch.cancel()

    def _prepare(self) -> Prepared:
        try:
            return prepare(self._app.model, read_json(self._data), self._app.n_ctx, is_chat=self._is_chat)
        except Exception as error:
            raise api_error(error) from error

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._pieces.put_nowait(_GONE)

    async def _whole(self, form: Form, scope: Any, receive: Any, send: Any) -> None:
        piece = await self._pieces.get()
        if piece.error is not None:
            raise api_error(piece.error)
        if piece is not _GONE:
            await JSONResponse(form.whole(piece))(scope, receive, send)

    async def _stream(self, form: Form, send: Any) -> None:
        """Send each step's text at once, or several together to a client that reads slowly."""
        started = is_last = False
        while not is_last:
            pieces = [await self._pieces.get()]
            while not self._pieces.empty():
                pieces.append(self._pieces.get_nowait())
            if _GONE in pieces:
                return
            if not started:  # an error before the first text has its status
                if pieces[0].error is not None:
                    raise api_error(pieces[0].error)
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
                started = True
            data = b"".join(event(form.chunk(p) if p.error is None else api_error(p.error).body()) for p in pieces)
            last = pieces[-1]
            is_last = last.error is not None or last.finish_reason is not None
            if is_last and last.error is None:
                data += (event(form.last()) if form.wants_usage else b"") + DONE
            message = {"type": "http.response.body", "body": data, "more_body": not is_last}
            try:
                await asyncio.wait_for(send(message), SEND_LIMIT_S)
            except asyncio.TimeoutError:
                return  # uvicorn closes the connection


async def _answer_error(_request: Request, error: Any) -> Response:
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, f"{error.detail}: the paths are those of OpenAI's API, under /v1/")
    return _response(api_error(error))


def _response(error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)
