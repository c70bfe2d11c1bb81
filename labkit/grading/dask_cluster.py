"""Grade on many machines: a dask cluster runs the notebooks; scoring, grades and pages stay on this machine."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from labkit import __version__
from labkit.errors import GradingError
from labkit.extras import needs_extra
from labkit.grading.sandbox.start import require_sandbox

_CONNECT_S = 15
T = TypeVar("T")


class FailFastExecutor(concurrent.futures.Executor):
    """Wrap dask's executor: raise an error once the scheduler is gone, where dask would wait forever."""

    def __init__(self, client: Any, executor: concurrent.futures.Executor, address: str) -> None:
        self.client, self._executor, self._address = client, executor, address

    def submit(self, function: Callable[..., T], /, *args: Any, **options: Any) -> concurrent.futures.Future[T]:
        """Run a function on a worker; raise GradingError if the scheduler is gone."""
        if self.client.status in ("closing", "closed"):
            raise GradingError(
                f"the scheduler at {self._address} is gone: start it and run the command again; existing grades are kept"
            )
        return self._executor.submit(function, *args, **options)


@contextlib.contextmanager
def cluster(address: str, *, unsafe_no_sandbox: bool = False) -> Iterator[tuple[concurrent.futures.Executor, int]]:
    """Connect to a running dask cluster; yield an executor and the number of notebooks that it can run in parallel.

    If a worker is lost, another one runs its notebooks. ``unsafe_no_sandbox`` also accepts workers without a sandbox.

    References
    ----------
    https://distributed.dask.org/en/stable/api.html (``Client.get_executor``)
    """
    with needs_extra():
        from distributed import Client
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise GradingError(f"no dask scheduler answers at {address}: {' '.join(str(error).split())[:200]}") from None
    with client, client.get_executor(pure=False) as executor:  # type: ignore[no-untyped-call]
        try:
            client.wait_for_workers(1, timeout=_CONNECT_S)
            workers = client.run(_about_worker, sandbox=not unsafe_no_sandbox)
        except TimeoutError:
            advice = f"start some with 'dask worker {address}'"
            raise GradingError(f"the scheduler at {address} has no workers: {advice}") from None
        except Exception as error:  # raised by a worker without labkit
            raise GradingError(f"a worker of {address} cannot grade: {type(error).__name__}: {error}") from None
        for worker, (version, problem) in workers.items():
            if version != __version__:
                raise GradingError(
                    f"the worker {worker} has labkit {version}, this machine {__version__}: install the same version"
                )
            if problem:
                raise GradingError(f"the worker {worker}: {problem}")
        yield FailFastExecutor(client, executor, address), sum(client.nthreads().values())  # type: ignore[no-untyped-call]


def was_lost(error: Exception) -> bool:
    """Return whether an error means that the worker was lost: dask's own errors, or those of any executor."""
    gone: tuple[type[BaseException], ...] = (concurrent.futures.CancelledError, concurrent.futures.BrokenExecutor)
    return isinstance(error, gone) or type(error).__module__.partition(".")[0] == "distributed"


def _about_worker(sandbox: bool) -> tuple[str, str]:
    """Return a worker's version of labkit, and the reason if it cannot grade."""
    try:
        if sandbox:
            require_sandbox()
    except GradingError as error:
        return __version__, str(error)
    return __version__, ""
