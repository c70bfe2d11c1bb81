"""Setup for all tests: a separate cache folder, the same random examples in every run, and one process per core."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

# No deadline: speed is not tested here, and the machines that run the tests may be busy.
settings.register_profile("thorough", deadline=None, derandomize=True)
settings.register_profile("quick", settings.get_profile("thorough"), max_examples=25)

# Hundreds of child processes import the same packages: keep their bytecode, as Python does by default.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Background jobs of a shell ignore SIGINT, which some tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_RAM_BYTES = 3 << 30  # free RAM for each process
_MOST_PROCESSES = 4
# The files whose tests take longest begin first, so that no process is left with one of them at the end.
_LONGEST_FIRST = (
    "tests/test_notebooks", "tests/browser/", "tests/test_release", "tests/test_nbgrader", "tests/test_grade_class",
    "tests/test_wheel", "tests/hostile/", "tests/test_devices", "tests/test_cli", "tests/test_memory", "tests/test_worker",
    "tests/test_engine.py", "tests/test_benchmark", "tests/test_doctests", "tests/test_grade", "tests/test_platforms",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--thorough``: also run the tests that take minutes, as in CI."""
    parser.addoption("--thorough", action="store_true", help="also run the tests that take minutes, as CI does")


def pytest_configure(config: pytest.Config) -> None:
    """Draw a quarter of the examples unless ``--thorough`` is given."""
    settings.load_profile("thorough" if config.getoption("--thorough") else "quick")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in two processes, or four, where cores and RAM allow it; ``-n 0`` runs it in one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # one of these processes, or a pytest that a test starts
    whole = len(config.args) == 1 and Path(config.args[0]).resolve() == Path(__file__).parent
    plain = not (config.option.usepdb or config.option.collectonly or config.option.keyword or config.option.markexpr)
    from labkit.system import logical_cores_available

    if whole and plain and config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None:
        ram = psutil.virtual_memory().available // _RAM_BYTES
        config.option.numprocesses = max(1, min(logical_cores_available(), ram, _MOST_PROCESSES))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each file's tests in one process, where they share loaded models; likewise all that need a browser."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            if file == "tests/test_notebooks.py":
                return test.partition("[")[0]  # each of these runs all notebooks
            return "browser" if "/browser/" in file else file

    config.option.loadscopereorder = False  # the longest first, see pytest_collection_modifyitems
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect thorough tests unless ``--thorough`` is given; the longest files come first."""
    items.sort(key=lambda item: next((n for n, start in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(start)), 99))
    if not config.getoption("--thorough"):
        lines = Path(__file__).with_name("thorough.txt").read_text(encoding="utf-8").splitlines()
        listed = tuple(f"tests/{line}" for line in lines if not line.startswith("#"))
        deselected = [item for item in items if item.nodeid.startswith(listed) or _is_thorough(item)]
        config.hook.pytest_deselected(items=deselected)
        left_out = set(map(id, deselected))
        items[:] = [item for item in items if id(item) not in left_out]


def _is_thorough(item: pytest.Item) -> bool:
    """Return whether a test has the ``thorough`` marker, or is in its module's THOROUGH."""
    named = getattr(getattr(item, "module", None), "THOROUGH", ())
    return item.get_closest_marker("thorough") is not None or item.name in named


@pytest.fixture(scope="session")
def rpc() -> None:
    """Skip a test that needs llama.cpp's RPC where it was built without."""
    from labkit.system import engine_build

    if not engine_build().has_rpc:
        pytest.skip("this llama.cpp was built without RPC")


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
