"""The fastest settings for a model on this machine, found by measuring few of the possible ones.

::

    records    Tried, TunedSettings
    search     which settings to try next, whatever they cost: no model in here
    run        the search on a loaded model                                           tune
    threads    one model with one thread, two, …                                      measure_threads
"""

from __future__ import annotations

from labkit.tuning.records import Tried, TunedSettings
from labkit.tuning.run import tune
from labkit.tuning.threads import ThreadScaling, ThreadSpeed, measure_threads

__all__ = ["ThreadScaling", "ThreadSpeed", "Tried", "TunedSettings", "measure_threads", "tune"]
