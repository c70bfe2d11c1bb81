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
