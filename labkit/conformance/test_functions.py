"""The plug-in's tests, one per function; a failure shows the hint."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.conformance.suite import FUNCTIONS, check_module


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(implementation: Any, name: str) -> None:
    """The function does what the lab requires."""
    (report,) = check_module(implementation, [name])
    if report.status != "fine":
        pytest.fail(f"{name}: {report.status}: {report.hint}", pytrace=False)
