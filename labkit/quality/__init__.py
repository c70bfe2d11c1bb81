"""Quality loss from quantization: how well a model predicts a text, and how far its predictions are from a reference's.

::

    windows     a text's tokens -> windows, cut as in llama-perplexity
    logits      rows of logits -> surprise, divergence
    perplexity  measure_perplexity
    divergence  measure_divergence, against a reference model
    compare     compare_quantizations: several types of one source, measured in one run
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
