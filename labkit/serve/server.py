"""serve_model: the sockets, the threads, start and end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from labkit.checks import check_int
from labkit.errors import ArgumentError, LabkitError, LabkitWarning
from labkit.extras import needs_extra
from labkit.kv_cache import CELLS
from labkit.serve.scheduler import Scheduler, Ticket
from labkit.units import round_up

if TYPE_CHECKING:
    from labkit.engine.model import Model
    from labkit.serve.app import App
    from labkit.serve.scheduler import Piece

IDLE_LIMIT_S = 30.0  # for a connection without a complete request, or one that does not take its last bytes
_SEND_BUFFER_BYTES = 256 * 1024  # what a slow reader may leave unread
LEAVE_S = 5.0  # for running requests at the end of a `with serve_model(…)`


class Server:
    """A running server: ``url``, ``n_parallel`` and ``n_ctx``; made by `serve_model`."""

    def __init__(self, app: App, listener: socket.socket, host: str) -> None:
        import uvicorn

        self._app, self._listener = app, listener
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{listener.getsockname()[1]}"
        self.n_parallel = 1 if app.scheduler is None else app.scheduler.n_parallel
        self.n_ctx = app.n_ctx
        config = uvicorn.Config(
            app.starlette(), http="h11", ws="none", loop="asyncio", lifespan="off", log_config=None, log_level="critical",
            access_log=False, server_header=False, backlog=2048, timeout_keep_alive=int(IDLE_LIMIT_S),
        )  # fmt: skip
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="labkit-http", daemon=True)
        self._thread.start()
        while not self._uvicorn.started and self._thread.is_alive():
            time.sleep(0.005)
        if not self._uvicorn.started:
            raise LabkitError("the server could not start: please report this")

    def stop(self, limit_s: float | None = None) -> None:
        """Finish the running requests, for at most ``limit_s``, and end; safe to call twice."""
        scheduler = self._app.scheduler
        if scheduler is not None:
            scheduler.refuse_waiting()
        self._uvicorn.should_exit = True
        self._thread.join(limit_s)
        if scheduler is not None:
            scheduler.cancel_all()
        self._uvicorn.force_exit = True
        self._thread.join()
        if scheduler is not None:
            scheduler.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()

        def dispatch(pieces: list[tuple[Ticket, Piece]]) -> None:
            for ticket, piece in pieces:
                ticket.receive(piece)

        def deliver(pieces: list[tuple[Ticket, Piece]]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(dispatch, pieces)

        if self._app.scheduler is not None:
            self._app.scheduler.deliver = deliver
        reaper = asyncio.create_task(self._reap())
        try:
            await self._uvicorn.serve(sockets=[self._listener])
        finally:
            reaper.cancel()

    async def _reap(self) -> None:
        """Close connections that hold nothing but a socket: half of a request, or a reader that stopped reading."""
        seen: dict[Any, tuple[Any, float]] = {}
        while True:
            await asyncio.sleep(IDLE_LIMIT_S / 10)
            now_s = time.monotonic()
            connections: list[Any] = list(self._uvicorn.server_state.connections)
            idle = {one: one.cycle for one in connections if _is_idle(one)}
            seen = {
                one: seen[one] if one in seen and seen[one][0] is cycle else (cycle, now_s) for one, cycle in idle.items()
            }
            for one, (_, since_s) in seen.items():
                if now_s - since_s > IDLE_LIMIT_S:
                    one.transport.abort()


def _is_idle(connection: Any) -> bool:
    cycle = connection.cycle
    return cycle is None or bool(cycle.response_complete) or bool(connection.transport.is_closing())


@contextlib.contextmanager
def serve_model(
    model: Model,
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    n_parallel: int | None = None,
    n_ctx: int | None = None,
    cache_mib: int = 256,
    max_waiting: int = 64,
    api_key: str | None = None,
) -> Iterator[Server]:
    """Serve a model to OpenAI clients while a ``with`` block runs.

    Requests are computed together: each read of the weights serves all of them, and a new one joins at the next step.
    Between requests the model can be used as before; during them, other calls wait.

    Parameters
    ----------
    model : Model
        From `load_model`; with ``embedding=True`` it serves ``/v1/embeddings`` only.
    port : int
        0 takes any free one.
    host : str
        The address to listen on; the default is only reachable from this machine.
    n_parallel : int, optional
        Requests computed together, 1 to 256; others wait. The default is 4, or fewer if no more fit into memory.
    n_ctx : int, optional
        Tokens of a request, prompt and answer; the model's by default. Each of the ``n_parallel`` slots has room for them.
    cache_mib : int
        Memory for prefixes of earlier requests that are no longer in a slot, in MiB.
    max_waiting : int
        Requests that wait for a slot; further ones are answered with status 429.
    api_key : str, optional
        Required from clients as ``Authorization: Bearer KEY``.

    Yields
    ------
    Server
        With its ``url``.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For a wrong argument, or a port in use.
    GenerationError
        If the slots do not fit into memory.
    MissingPackageError
        If the extra ``serve`` is not installed.

    Examples
    --------
    >>> import json, urllib.request
    >>> import labkit
    >>> with labkit.load_model(n_ctx=256) as model, labkit.serve_model(model, n_parallel=2) as server:
    ...     models = json.load(urllib.request.urlopen(f"{server.url}/v1/models"))
    >>> models["data"][0]["object"]
    'model'
    """
    from labkit.engine.model import check_model

    with needs_extra():
        from labkit.serve.app import App
    check_model(model)
    listener = _listen(host, check_int("port", port, 0, 65_535))
    with contextlib.ExitStack() as stack:
        stack.callback(listener.close)
        n_cells = round_up(check_int("n_ctx", n_ctx, 1, 2**31 - 1) if n_ctx is not None else model.n_ctx(), CELLS)
        budget = check_int("cache_mib", cache_mib, 0, 2**30) * 2**20
        n_waiting = check_int("max_waiting", max_waiting, 0, 100_000)
        scheduler = None
        if not model.context_params.embeddings:
            slots = None if n_parallel is None else check_int("n_parallel", n_parallel, 1, 256)
            scheduler = model.compute(lambda job: Scheduler(model, job, slots, n_cells, budget))
            stack.callback(scheduler.close)
        app = App(model, scheduler, n_ctx or model.n_ctx(), n_waiting, api_key)
        app.is_loopback = _is_loopback(host)
        if not app.is_loopback and api_key is None:
            warnings.warn(f"{host} can be reached from other machines, and there is no API key", LabkitWarning, stacklevel=3)
        server = Server(app, listener, host)
        stack.callback(server.stop, 0.0)
        yield server
        server.stop(LEAVE_S)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)  # its connections inherit it
        return listener
    except OSError as error:
        reason = error.strerror or error
        raise ArgumentError(
            f"cannot listen on {host}:{port} ({reason}): choose another port, or 0 for any free one"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
