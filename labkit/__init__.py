"""labkit: run, size, quantize and tune language models on your own machine, and know why each number is what it is.

``__init__.pyi`` lists the public names, each with its subpackage. A subpackage is imported when one of its names is first
used, so importing labkit stays cheap.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
