"""The suite as a pytest plug-in.

``pytest -p labkit.conformance.plugin --implementation FILE_OR_MODULE --pyargs labkit.conformance``
"""

from __future__ import annotations

import importlib
import runpy
import types
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--implementation``."""
    parser.addoption("--implementation", default="labkit", help="file or module with the seven functions to check")


@pytest.fixture(scope="session")
def implementation(request: pytest.FixtureRequest) -> Any:
    """Return the module under check."""
    name = str(request.config.getoption("--implementation"))
    if name.endswith(".py"):
        return types.SimpleNamespace(**runpy.run_path(name, run_name="implementation"))
    return importlib.import_module(name)
