"""Quality loss from quantization: how well a model predicts a text, and how far its predictions are from a reference's.

::

    windows     a text's tokens -> windows, cut as in llama-perplexity
    logits      rows of logits -> surprise, divergence
    perplexity  measure_perplexity
    divergence  measure_divergence, against a reference model
    compare     compare_quantizations: several types of one source, measured in one run
"""

from labkit.quality.compare import compare_quantizations
from labkit.quality.comparison import QuantizationComparison, QuantizationQuality
from labkit.quality.divergence import DivergenceResult, measure_divergence
from labkit.quality.perplexity import PerplexityResult, measure_perplexity
from labkit.quality.windows import evaluation_text

__all__ = [
    "DivergenceResult",
    "PerplexityResult",
    "QuantizationComparison",
    "QuantizationQuality",
    "compare_quantizations",
    "evaluation_text",
    "measure_divergence",
    "measure_perplexity",
]
