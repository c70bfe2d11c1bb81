"""The lab's milestone: a 7B quantized model on this CPU at over 10 tokens per second, or what limits it.

::

    records    the lab's ten prompts, MilestoneFigure, MilestoneResult
    advice     what would make it pass, with numbers
    run        measure and compare                                                    run_milestone
"""

from labkit.milestone.records import LAB_PROMPTS, MilestoneFigure, MilestoneResult
from labkit.milestone.run import run_milestone

__all__ = ["LAB_PROMPTS", "MilestoneFigure", "MilestoneResult", "run_milestone"]
