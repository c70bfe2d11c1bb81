"""Ghost models: GGUF files with a real model's shape and random weights, for measuring memory and speed.

::

    shape    Shape: a model's sizes, checked
    shapes   ghost_shapes: the sizes of real models, Llama-2-7B to Falcon-H1
    layout   Shape -> names and shapes of its tensors
    keys     Shape -> the metadata of the file, with the bundled model's tokenizer for its vocabulary size
    mix      file type -> type of each tensor, by llama.cpp's rules
    tiles    random blocks, quantized once and reused
    build    build_ghost_model
"""

from labkit.ghost.build import build_ghost_model
from labkit.ghost.shape import Shape
from labkit.ghost.shapes import GhostShape, ghost_shapes

__all__ = ["GhostShape", "Shape", "build_ghost_model", "ghost_shapes"]
