"""How fast a model answers: the speed that a user sees, the speed of llama.cpp alone, and the parts of the difference.

::

    run      benchmark_inference: warm-up and repeats
    timing   a generation with clocks, and llama-bench's protocol
    parallel several prompts together
    memory   peak RSS
    figures  times of runs -> the figures of a result
    stats    a median's confidence interval
    records  runs, settings, the gap between llama.cpp and the user
    result   BenchmarkResult, with tables, CSV, Markdown and JSON
    compare  faster, slower or within noise
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
