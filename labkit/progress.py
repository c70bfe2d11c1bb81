"""How far long work has come: a function of the caller's, a bar on stderr or in the notebook, or silence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from labkit.errors import ArgumentTypeError

__all__ = ["Progress", "reporting"]

Progress = Callable[[int, int], object]


@contextlib.contextmanager
def reporting(progress: Progress | bool | None, description: str, unit: str) -> Iterator[Progress]:
    """Give a function of (done, in all) to call.

    Parameters
    ----------
    progress : callable, bool or None
        A function gets the two numbers itself; True shows a bar; False and None show nothing.
    description, unit : str
        Of the bar.

    Raises
    ------
    ArgumentTypeError
        When it is anything else.
    """
    if callable(progress):
        yield progress
    elif progress is None or progress is False:
        yield lambda _done, _total: None
    elif progress is True:
        from tqdm.auto import tqdm

        with tqdm(desc=description, unit=unit) as bar:

            def report(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield report
    else:
        raise ArgumentTypeError(f"progress is a function, True or None, not {progress!r}")
