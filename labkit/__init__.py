"""labkit: run, size, quantize and tune language models on your own machine, and know why each number is what it is.

``__init__.pyi`` lists the public names, each with its subpackage. A subpackage is imported when one of its names is first
used, so importing labkit stays cheap.
"""

import lazy_loader

from labkit.prebuilt import use_prebuilt

__version__ = "0.2.0"

use_prebuilt()  # before llama_cpp is imported, here or in a notebook
del use_prebuilt

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
