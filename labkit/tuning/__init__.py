"""The fastest settings for a model on this machine, found by measuring few of the possible ones.

::

    records    Tried, TunedSettings
    search     which settings to try next, whatever they cost: no model in here
    run        the search on a loaded model                                           tune
"""

from __future__ import annotations

from labkit.tuning.records import Tried, TunedSettings
from labkit.tuning.run import tune

__all__ = ["Tried", "TunedSettings", "tune"]
