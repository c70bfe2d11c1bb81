from .compare import BenchmarkComparison as BenchmarkComparison
from .compare import compare_benchmarks as compare_benchmarks
from .records import BenchmarkRun as BenchmarkRun
from .records import BenchmarkSettings as BenchmarkSettings
from .records import SpeedGap as SpeedGap
from .result import BenchmarkResult as BenchmarkResult
from .run import benchmark_inference as benchmark_inference
from .stats import ConfidenceInterval as ConfidenceInterval
