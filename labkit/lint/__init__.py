"""Traps in how a model is loaded, found without loading it: from its header, the formulas and what this machine is.

::

    records   what is found: the trap, what it costs, what mends it
    machine   cores, load, and the engine's build
    case      a model and the settings that it would be loaded with; what others would cost
    threads   too few, too many, or at odds with what else runs; an engine that does not know this CPU
    space     memory that is spent twice, or for nothing; what does not fit
    weights   files whose quantization is not what its name says
    find      lint_settings: all of it
"""

from __future__ import annotations

from labkit.lint.find import lint_settings
from labkit.lint.records import LintFinding, LintReport

__all__ = ["LintFinding", "LintReport", "lint_settings"]
