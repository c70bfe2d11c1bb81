"""Check one module: each function is fine, wrong or missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from labkit import ArgumentError, Record
from labkit.conformance.functions import CHECKS, Setup, WrongError

if TYPE_CHECKING:
    from labkit import Model

FUNCTIONS = tuple(CHECKS)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class FunctionReport(Record):
    """The result for one function.

    Attributes
    ----------
    name : str
        Name of the function.
    status : str
        ``"fine"``, ``"wrong"`` or ``"missing"``.
    hint : str
        What to look at first; empty if the function is fine.
    """

    name: str
    status: Literal["fine", "wrong", "missing"]
    hint: str


def check_module(
    module: Any, only: Sequence[str] | None = None, *, model: Model | None = None
) -> tuple[FunctionReport, ...]:
    """Check the functions of a module, or of any object with the functions as attributes, in this process.

    ``model`` is the bundled model, if it is already loaded, with a context of at least 1,024 tokens.
    """
    names = chosen_functions(only)
    setup = Setup(module, model)
    try:
        return tuple(_check(setup, name) for name in names)
    finally:
        setup.close()


def chosen_functions(only: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the functions to check; all seven by default."""
    names = FUNCTIONS if only is None else tuple(only)
    for name in names:
        if name not in CHECKS:
            raise ArgumentError(f"{name!r} is not a function of the lab: use one of {', '.join(FUNCTIONS)}")
    return names


def _check(setup: Setup, name: str) -> FunctionReport:
    if not callable(getattr(setup.module, name, None)):
        return FunctionReport(name, "missing", f"the file has no function {name}")
    try:
        CHECKS[name](setup)
    except NotImplementedError:
        return FunctionReport(name, "missing", "nothing is written there yet")
    except WrongError as wrong:
        return FunctionReport(name, "wrong", str(wrong))
    except Exception as error:  # the code under check can raise anything
        return FunctionReport(name, "wrong", f"it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return FunctionReport(name, "fine", "")
