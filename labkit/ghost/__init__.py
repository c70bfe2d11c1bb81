"""Ghost models: GGUF files of a real model's shape with random weights, to measure memory and speed on.

::

    shape    Shape: the numbers that size a model, checked
    shapes   ghost_shapes: whose numbers they are, Llama-2-7B to Falcon-H1
    layout   Shape -> names and sizes of its tensors
    keys     Shape -> the metadata of the file
    mix      file type -> the type of each tensor, by llama.cpp's rules
    tokens   the bundled model's tokenizer, cut or padded to a vocabulary
    tiles    random blocks, quantized once, drawn again and again
    pack     GGUF's header as bytes
    build    build_ghost_model
"""

from labkit.ghost.build import build_ghost_model
from labkit.ghost.shape import Shape
from labkit.ghost.shapes import GhostShape, ghost_shapes

__all__ = ["GhostShape", "Shape", "build_ghost_model", "ghost_shapes"]
