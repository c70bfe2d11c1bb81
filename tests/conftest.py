"""Setup for all tests: a separate cache folder, and the same random examples in every run."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: speed is not tested here, and the machines that run the tests may be busy.
settings.register_profile("labkit", deadline=None, derandomize=True)
settings.load_profile("labkit")

# Background jobs of a shell ignore SIGINT, which some tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--thorough``: also run the tests that take minutes, as in CI."""
    parser.addoption("--thorough", action="store_true", help="also run the tests that take minutes, as CI does")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect thorough tests unless ``--thorough`` is given."""
    if not config.getoption("--thorough"):
        lines = Path(__file__).with_name("thorough.txt").read_text(encoding="utf-8").splitlines()
        listed = tuple(f"tests/{line}" for line in lines if not line.startswith("#"))
        deselected = [item for item in items if item.nodeid.startswith(listed) or _is_thorough(item)]
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def _is_thorough(item: pytest.Item) -> bool:
    """Return whether a test has the ``thorough`` marker, or is in its module's THOROUGH."""
    named = getattr(getattr(item, "module", None), "THOROUGH", ())
    return item.get_closest_marker("thorough") is not None or item.name in named


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder() -> Iterator[None]:
    """Use a temporary labkit cache instead of the user's; subprocesses inherit it."""
    before = os.environ.get("LABKIT_CACHE")
    with tempfile.TemporaryDirectory(prefix="labkit-tests-", ignore_cleanup_errors=True) as folder:
        os.environ["LABKIT_CACHE"] = folder
        yield
    if before is None:
        del os.environ["LABKIT_CACHE"]
    else:
        os.environ["LABKIT_CACHE"] = before
