"""Check one module: each function is fine, wrong or missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from labkit import ArgumentError, Model, Record, bundled_model_path
from labkit.conformance.functions import CHECKS, Setup, WrongError

__all__ = ["FUNCTIONS", "FunctionReport", "Status", "check_module"]

FUNCTIONS = tuple(CHECKS)
Status = Literal["fine", "wrong", "missing"]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class FunctionReport(Record):
    """The result for one function.

    Attributes
    ----------
    name : str
    status : str
        ``"fine"``, ``"wrong"`` or ``"missing"``.
    hint : str
        What to look at first; empty if the function is fine.
    """

    name: str
    status: Status
    hint: str


def check_module(
    module: Any, only: Sequence[str] | None = None, *, path: Path | None = None, model: Model | None = None
) -> tuple[FunctionReport, ...]:
    """Check a module's functions in this process.

    Parameters
    ----------
    module : module
        ``labkit`` itself, or any object with the functions as attributes.
    only : sequence of str, optional
        Some of `FUNCTIONS`; all by default.
    path : Path, optional
        The model; the bundled one by default.
    model : Model, optional
        That model, already loaded with a context of at least 1,024 tokens.

    Raises
    ------
    ArgumentError
        If a name is not one of the seven.
    """
    names = FUNCTIONS if only is None else tuple(only)
    for name in names:
        if name not in CHECKS:
            raise ArgumentError(f"{name!r} is not a function of the lab: use one of {', '.join(FUNCTIONS)}")
    setup = Setup(module, path or bundled_model_path(), model)
    try:
        return tuple(_check(setup, name) for name in names)
    finally:
        setup.close()


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
