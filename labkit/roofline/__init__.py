"""Bytes and operations a token, hence the speed that a model should have on this machine, and what limits it.

::

    work       a header -> matrices, attention and small operations of one pass
    kernels    how long llama.cpp's own kernels take for them here, in a child process
    predict    the two together                                                       predict_speed
"""

from __future__ import annotations

from labkit.roofline.predict import predict_speed
from labkit.roofline.records import SpeedPart, SpeedPrediction

__all__ = ["SpeedPart", "SpeedPrediction", "predict_speed"]
