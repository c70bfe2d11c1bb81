"""What quantizing costs: how well a model foretells a text, and how far that is from what another model foretells.

::

    windows     a text's tokens -> windows, as llama-perplexity cuts them
    logits      rows of logits -> surprise, divergence: the arithmetic
    perplexity  measure_perplexity
    divergence  measure_divergence, against a reference model
    compare     compare_quantizations: every type made of one source, measured in one run
"""

from __future__ import annotations

from labkit.quality.compare import QuantizationComparison, QuantizationQuality, compare_quantizations
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
