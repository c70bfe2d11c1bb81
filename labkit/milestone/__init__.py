"""The lab's milestone: a 7B quantized model on this CPU at over 10 tokens per second, or what limits it.

::

    records    the lab's ten prompts, MilestoneFigure, MilestoneResult
    advice     what would make it pass, with numbers
    run        measure and compare                                                    run_milestone
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
