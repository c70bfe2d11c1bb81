"""Predict a model's speed on this machine, and its limit, from bytes and operations per token.

::

    work       header -> matrices, attention and small operations of one pass
    kernels    time of llama.cpp's kernels on this machine, measured in a child process
    predict    predict_speed, from both
    roof       pass_work: the place of a pass on the roofline
"""

from labkit.roofline.predict import predict_speed
from labkit.roofline.records import SpeedPart, SpeedPrediction
from labkit.roofline.roof import PassWork, pass_work

__all__ = ["PassWork", "SpeedPart", "SpeedPrediction", "pass_work", "predict_speed"]
