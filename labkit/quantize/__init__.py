"""Quantizing: readable codecs in NumPy, and llama.cpp's own quantizer for whole models.

::

    codecs   Q8_0, Q4_0, Q4_1 and (decoding only) Q4_K: bytes <-> weights, bit for bit llama.cpp's
    convert  quantize_model: a GGUF file -> a smaller one, or nothing
    process  start that quantizer, follow its log, end it
    child    the process in which llama.cpp's quantizer runs
"""

from labkit.errors import QuantizationError
from labkit.quantize.codecs import CODECS, Q4_0, Q4_1, Q4_K, Q8_0, Codec
from labkit.quantize.convert import Fallback, QuantizationResult, quantize_model

__all__ = [
    "CODECS",
    "Q4_0",
    "Q4_1",
    "Q4_K",
    "Q8_0",
    "Codec",
    "Fallback",
    "QuantizationError",
    "QuantizationResult",
    "quantize_model",
]
