"""Quantizing: readable codecs in NumPy, and llama.cpp's own quantizer for whole models.

::

    codecs   Q8_0, Q4_0, Q4_1 and (decoding only) Q4_K: bytes <-> weights, bit for bit llama.cpp's
"""

from labkit.quantize.codecs import CODECS, Q4_0, Q4_1, Q4_K, Q8_0, Codec

__all__ = ["CODECS", "Q4_0", "Q4_1", "Q4_K", "Q8_0", "Codec"]
