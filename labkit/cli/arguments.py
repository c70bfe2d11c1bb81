"""Arguments that several commands take."""

from __future__ import annotations

import argparse

__all__ = ["CACHE_TYPES", "add_model"]

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def add_model(parser: argparse.ArgumentParser, *, by_header: bool = False) -> None:
    """Add the model, the bundled one by default; ``by_header`` says that an address will do."""
    where = "a GGUF file or a name of `labkit models`"
    if by_header:
        where = "a GGUF file, a name of `labkit models`, or an http(s) address (only the header is read)"
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"{where}; the bundled one")
