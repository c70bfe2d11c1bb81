"""The lab's milestone: a 7B quantized model on this CPU at over 10 tokens a second, or what exactly limits it.

::

    prompts    the lab's ten prompts
    records    MilestoneFigure, MilestoneResult
    advice     what would make it pass, in figures
    run        measure and compare                                                    run_milestone
"""

from __future__ import annotations

from labkit.milestone.records import LAB_PROMPTS, MilestoneFigure, MilestoneResult
from labkit.milestone.run import run_milestone

__all__ = ["LAB_PROMPTS", "MilestoneFigure", "MilestoneResult", "run_milestone"]
