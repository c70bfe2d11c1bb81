"""Find the fastest settings for a model on this machine, by measuring only a few of the possible ones.

::

    records    Tried, TunedSettings
    search     the order in which settings are tried; independent of the model
    timed_context  one setting, timed on a loaded model
    times      the least seconds of each setting, and what contradicts
    session    measurements on a loaded model, each made once
    run        search, compare, store                                                 tune
    reasons    why each setting was chosen
    threads    speed by number of threads                                             measure_threads
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
