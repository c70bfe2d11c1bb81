"""What all tests share: a cache folder of their own, and random examples that are the same in every run."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Speed is no claim of these tests, and the machines that run them are busy.
settings.register_profile("labkit", deadline=None, derandomize=True)
settings.load_profile("labkit")

# A shell that starts this in the background has it ignore Ctrl-C, which some tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--thorough``: the tests that take minutes too, as CI runs them."""
    parser.addoption("--thorough", action="store_true", help="run the tests that take minutes too, as CI does")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only a thorough run does."""
    if not config.getoption("--thorough"):
        left_out = [item for item in items if _is_thorough(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_thorough(item: pytest.Item) -> bool:
    """Whether a test is marked so, or its module's THOROUGH names it."""
    named = getattr(getattr(item, "module", None), "THOROUGH", ())
    return item.get_closest_marker("thorough") is not None or item.name in named


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder() -> Iterator[None]:
    """Keep what labkit remembers of the tests' files out of the user's cache; processes that tests start inherit this."""
    before = os.environ.get("LABKIT_CACHE")
    with tempfile.TemporaryDirectory(prefix="labkit-tests-", ignore_cleanup_errors=True) as folder:
        os.environ["LABKIT_CACHE"] = folder
        yield
    if before is None:
        del os.environ["LABKIT_CACHE"]
    else:
        os.environ["LABKIT_CACHE"] = before
