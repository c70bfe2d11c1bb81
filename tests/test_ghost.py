"""Ghost models: real shapes, random weights, loaded and asked like any other model."""

from __future__ import annotations

from pathlib import Path

import pytest

import labkit
from labkit.gguf_file import preflight, read_header

SHAPES = [(row.architecture, row.name) for row in labkit.ghost_shapes()]
TINY = [pair for pair in SHAPES if pair[1].startswith("tiny")]


@pytest.mark.parametrize(("architecture", "shape"), TINY)
def test_generates_with_every_architecture(tmp_path: Path, architecture: str, shape: str) -> None:
    """A tiny ghost of every architecture passes the strict reader and the preflight, loads, completes and chats."""
    path = labkit.build_ghost_model(tmp_path / "ghost.gguf", architecture=architecture, shape=shape)
    header = read_header(path)
    assert preflight(header) == () == header.warnings
    info = labkit.get_model_info(path)
    assert (info.architecture, info.quantization) == (architecture, "Q4_K_M")
    with labkit.load_model(path, n_ctx=256) as model:
        assert isinstance(labkit.generate_text(model, "Hello", 16, temperature=0), str)
        assert isinstance(labkit.generate_chat(model, [{"role": "user", "content": "Hi"}], 4, temperature=0), str)
