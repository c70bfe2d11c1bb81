"""Quantization: readable codecs in NumPy, and llama.cpp's quantizer for whole models.

::

    codecs   Q8_0, Q4_0, Q4_1 and (decoding only) Q4_K: bytes <-> weights, bit-identical to llama.cpp
    convert  quantize_model: a GGUF file -> a smaller one
    child    the script that runs llama.cpp's quantizer
"""

from labkit.errors import QuantizationError
from labkit.quantize.codecs import CODECS, Q4_0, Q4_1, Q4_K, Q8_0
from labkit.quantize.convert import QuantizationResult, quantize_model

__all__ = ["CODECS", "Q4_0", "Q4_1", "Q4_K", "Q8_0", "QuantizationError", "QuantizationResult", "quantize_model"]
