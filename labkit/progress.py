"""Progress of long work: a callback, a bar on stderr or in the notebook, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from labkit.checks import shown
from labkit.errors import ArgumentTypeError

Progress = Callable[[int, int], object]


@contextlib.contextmanager
def reporting(progress: Progress | bool | None, description: str, unit: str) -> Iterator[Progress]:
    """Yield a function to call with (done, total).

    True shows a bar with this text and unit, False and None show nothing.
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
        raise ArgumentTypeError(f"progress must be a function, True or None, not {shown(progress)}")
