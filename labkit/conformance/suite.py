"""The checks of one module: fine, wrong or missing, function by function."""

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
    """The verdict on one function.

    Attributes
    ----------
    name : str
    status : str
        ``"fine"``, ``"wrong"`` or ``"missing"``.
    hint : str
        The first thing to look at; empty where it is fine.
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
        Some of `FUNCTIONS`.
    path : Path, optional
        The model; the bundled one by default.
    model : Model, optional
        Loaded from it with a context of at least 1,024 tokens, to be used rather than to load it again.

    Raises
    ------
    ArgumentError
        For a name that is none of the seven.
    """
    names = FUNCTIONS if only is None else tuple(only)
    for name in names:
        if name not in CHECKS:
            raise ArgumentError(f"there is no function {name!r} in the lab: it is one of {', '.join(FUNCTIONS)}")
    setup = Setup(module, path or bundled_model_path(), model)
    try:
        return tuple(_check(setup, name) for name in names)
    finally:
        setup.close()


def _check(setup: Setup, name: str) -> FunctionReport:
    if not callable(getattr(setup.module, name, None)):
        return FunctionReport(name, "missing", f"there is no function {name} in the file")
    try:
        CHECKS[name](setup)
    except NotImplementedError:
        return FunctionReport(name, "missing", "nothing is written there yet")
    except WrongError as wrong:
        return FunctionReport(name, "wrong", str(wrong))
    except Exception as error:  # whatever the code under check raises
        return FunctionReport(name, "wrong", f"it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return FunctionReport(name, "fine", "")
