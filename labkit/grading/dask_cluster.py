"""Grade on many machines: a dask cluster as what runs the notebooks; grades, pages and verdicts stay here."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from labkit import __version__
from labkit.errors import GradingError
from labkit.grading.sandbox.start import refuse_without_isolation

__all__ = ["WhileThere", "cluster", "was_lost"]

_CONNECT_S = 15
T = TypeVar("T")


class WhileThere(concurrent.futures.Executor):
    """Dask's executor, which would take work also when its scheduler is gone, and never answer."""

    def __init__(self, client: Any, executor: concurrent.futures.Executor, address: str) -> None:
        self.client, self._executor, self._address = client, executor, address

    def submit(self, function: Callable[..., T], /, *args: Any, **options: Any) -> concurrent.futures.Future[T]:
        """Have it run by a worker; GradingError when the scheduler is gone."""
        if self.client.status in ("closing", "closed"):
            raise GradingError(
                f"the scheduler at {self._address} is gone: start it and grade again, what has a grade is kept"
            )
        return self._executor.submit(function, *args, **options)


@contextlib.contextmanager
def cluster(address: str, *, unsafe_no_sandbox: bool = False) -> Iterator[tuple[concurrent.futures.Executor, int]]:
    """Give an executor of a running dask cluster, and how many notebooks it can run at a time.

    A worker that is lost has its notebooks run by another.

    Parameters
    ----------
    address : str
        Of the scheduler, such as ``tcp://10.0.0.1:8786``.
    unsafe_no_sandbox : bool
        Take workers that have no sandbox, too.

    Raises
    ------
    GradingError
        When the package distributed is not there, nobody answers at the address, or a worker has another labkit than
        this one, or no sandbox.

    References
    ----------
    https://distributed.dask.org/en/stable/api.html (``Client.get_executor``)
    """
    try:
        from distributed import Client
    except ImportError:
        raise GradingError("--scheduler needs the package distributed: pip install 'labkit[cluster]'") from None
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise GradingError(f"no dask scheduler answers at {address}: {' '.join(str(error).split())[:200]}") from None
    with client, client.get_executor(pure=False) as executor:  # type: ignore[no-untyped-call]
        try:
            client.wait_for_workers(1, timeout=_CONNECT_S)
            told = client.run(_about_worker, sandbox=not unsafe_no_sandbox)
        except TimeoutError:
            advice = f"start some with 'dask worker {address}'"
            raise GradingError(f"the scheduler at {address} has no workers: {advice}") from None
        except Exception as error:  # what a worker raises that does not know labkit
            raise GradingError(f"a worker of {address} cannot grade: {type(error).__name__}: {error}") from None
        for worker, (version, problem) in told.items():
            if version != __version__:
                raise GradingError(f"the worker {worker} has labkit {version}, this machine {__version__}: install the same")
            if problem:
                raise GradingError(f"the worker {worker}: {problem}")
        yield WhileThere(client, executor, address), sum(client.nthreads().values())  # type: ignore[no-untyped-call]


def was_lost(error: Exception) -> bool:
    """Whether a run ended because what ran it is gone: dask's own errors, or those of any executor."""
    gone: tuple[type[BaseException], ...] = (concurrent.futures.CancelledError, concurrent.futures.BrokenExecutor)
    return isinstance(error, gone) or type(error).__module__.partition(".")[0] == "distributed"


def _about_worker(sandbox: bool) -> tuple[str, str]:
    """Return a worker's version of labkit, and why it cannot grade."""
    try:
        if sandbox:
            refuse_without_isolation()
    except GradingError as error:
        return __version__, str(error)
    return __version__, ""
