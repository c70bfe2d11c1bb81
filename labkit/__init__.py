"""labkit: run, size, quantize and tune language models on your own machine, and know why each number is what it is.

The public names stand in ``__init__.pyi`` beside this file, each with the room that it lives in. A room opens when one of
its names is first used, so importing labkit stays cheap.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
