from .compare import compare_quantizations as compare_quantizations
from .comparison import QuantizationComparison as QuantizationComparison
from .comparison import QuantizationQuality as QuantizationQuality
from .divergence import DivergenceResult as DivergenceResult
from .divergence import measure_divergence as measure_divergence
from .perplexity import PerplexityResult as PerplexityResult
from .perplexity import measure_perplexity as measure_perplexity
from .windows import evaluation_text as evaluation_text
