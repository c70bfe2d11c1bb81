"""Arguments shared by several commands."""

from __future__ import annotations

import argparse


def add_model(parser: argparse.ArgumentParser, *, by_header: bool = False) -> None:
    """Add the MODEL argument, the bundled model by default; with ``by_header`` it can be a URL."""
    where = "a GGUF file or a name from `labkit models`"
    if by_header:
        where = "a GGUF file, a name from `labkit models`, or an http(s) URL (only the header is read)"
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"{where}; default: the bundled model")
