"""The examples in the docstrings run and give the stated results."""

import doctest
import importlib
import pkgutil

import pytest

import labkit

MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(labkit.__path__, "labkit.")
    if not name.endswith(("__main__", "render_child"))  # programs
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_the_stated_results(name: str, request: pytest.FixtureRequest) -> None:
    """Every example in a module gives the result in its docstring."""
    if name == "labkit.devices.serve":
        request.getfixturevalue("rpc")
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_there_are_examples() -> None:
    """At least 20 examples are found: a package without examples would pass the test above."""
    finder = doctest.DocTestFinder()
    found = sum(len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name)))
    assert found >= 20
