"""What a look at settings finds."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from labkit.engine import ModelSettings
from labkit.records import Record

__all__ = ["SEVERITIES", "LintFinding", "LintReport", "Severity"]

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LintFinding(Record):
    """One trap.

    Attributes
    ----------
    code : str
        Its short name, such as ``"doubled-weights"``.
    severity : str
        ``"error"`` (it will not load, or cannot be used), ``"warning"`` (it costs much) or ``"note"``.
    trap : str
        What is the matter.
    cost : str
        What it costs, in words; where no speed was measured they say so.
    mend : str
        What mends it.
    cost_bytes : int or None
        The same in bytes, by labkit's own formulas: what is taken now less what the mended settings take. None where
        memory is not what it costs.
    change : dict
        The arguments of `load_model` that mend it; empty where no argument does.
    """

    code: str
    severity: Severity
    trap: str
    cost: str
    mend: str
    cost_bytes: int | None = None
    change: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LintReport(Record):
    """All traps of one way to load a model.

    Attributes
    ----------
    model : str
        What was looked at.
    loader : str
        ``"load_model"``, or ``"llama_cpp.Llama"`` with its own defaults.
    settings : ModelSettings
        What the model would be loaded with.
    findings : tuple of LintFinding
        The worst first.
    """

    model: str
    loader: str
    settings: ModelSettings
    findings: tuple[LintFinding, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """The findings' short names."""
        return tuple(finding.code for finding in self.findings)

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing worse than a note."""
        return all(finding.severity == "note" for finding in self.findings)

    def changes(self) -> dict[str, Any]:
        """Return the arguments of `load_model` that mend what arguments can; the worst finding wins."""
        merged: dict[str, Any] = {}
        for finding in self.findings:
            merged = {**finding.change, **merged}
        return merged
