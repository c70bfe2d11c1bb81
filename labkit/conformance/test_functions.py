"""One test a function, for the plug-in: it fails with the hint."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.conformance.suite import FUNCTIONS, check_module


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(implementation: Any, name: str) -> None:
    """The function does what the lab asks for."""
    (report,) = check_module(implementation, [name])
    if report.status != "fine":
        pytest.fail(f"{name}: {report.status}: {report.hint}", pytrace=False)
