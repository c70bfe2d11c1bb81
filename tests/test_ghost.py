"""Ghost models: real shapes, random weights, used like any other model."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.gguf_file import read_header
from labkit.gguf_file.formats import TENSOR_TYPES, file_type
from labkit.gguf_file.preflight import preflight
from labkit.ghost.build import shape_header
from labkit.ghost.layout import layout
from labkit.ghost.mix import choose_types
from labkit.ghost.shapes import find_shape
from labkit.ghost.tiles import Pools
from labkit.quality.scoring import Window, score_windows
from labkit.quantize.blocks import NEEDS_IMPORTANCE, quantize_rows
from labkit.roofline import pass_work
from labkit.units import parse_bytes
from tests import more_ghosts  # noqa: F401  # adds architectures

SHAPES = [(row.architecture, row.name) for row in labkit.ghost_shapes()]
TINY = [pair for pair in SHAPES if pair[1].startswith("tiny")]
SMALL = {"n_layer": 1, "n_embd": 64, "n_ff": 64}


def build(path: Path, **kwargs: Any) -> Path:
    return labkit.build_ghost_model(path, **{"shape": SMALL, "quantization": "Q8_0", **kwargs})


def logits_of(model: Any, text: str) -> np.ndarray[Any, Any]:
    tokens = np.array(model.tokenize(text.encode()), np.int32)
    rows: list[np.ndarray[Any, Any]] = []
    score_windows(model, [Window(tokens, tokens)], 256, lambda logits, _targets: rows.append(logits.copy()))
    return np.concatenate(rows)


@pytest.mark.parametrize(("architecture", "shape"), TINY)
def test_generates_with_every_architecture(tmp_path: Path, architecture: str, shape: str) -> None:
    """A tiny ghost passes the reader and the preflight, loads, and gives finite logits without ties."""
    path = labkit.build_ghost_model(tmp_path / "ghost.gguf", architecture=architecture, shape=shape)
    header = read_header(path)
    assert preflight(header) == () == header.warnings
    info = labkit.get_model_info(path)
    assert (info.architecture, info.quantization) == (architecture, "Q4_K_M")
    with labkit.load_model(path, n_ctx=256) as model:
        logits = logits_of(model, "The quick brown fox jumps over the lazy dog")
        assert labkit.generate_text(model, "Hello", 16, temperature=0)
    assert np.isfinite(logits).all()
    assert np.abs(logits).max() < 100
    assert all(len(np.unique(row)) > 0.99 * row.size for row in logits)
    assert len(set(logits.argmax(axis=1))) > 1


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q4_0", "IQ4_NL", "TQ2_0", "MXFP4_MOE", "Q2_K", "Q5_K_M"])
def test_generates_with_every_kind_of_tensor_type(tmp_path: Path, quantization: str) -> None:
    """Floats, blocks of 32, blocks of 256, ternary and four-bit floats give finite logits."""
    path = build(tmp_path / "ghost.gguf", quantization=quantization, shape={"n_layer": 1})
    assert labkit.get_model_info(path).quantization == quantization
    with labkit.load_model(path, n_ctx=256) as model:
        assert np.isfinite(logits_of(model, "Hello there")).all()


def test_chats_with_the_bundled_tokenizer(tmp_path: Path) -> None:
    """It has the chat template; text is tokenized and detokenized correctly; no control token ends a greedy text."""
    with labkit.load_model(build(tmp_path / "ghost.gguf"), n_ctx=256) as model:
        text = "Straße, naïve café 🦙"
        assert model.detokenize(model.tokenize(text.encode())).decode() == text
        assert labkit.count_tokens(model, "the thing") < len("the thing")
        assert isinstance(labkit.generate_chat(model, [{"role": "user", "content": "Hi"}], 8, temperature=0), str)


@pytest.mark.parametrize("n_vocab", [252, 32_000, 49_152, 50_280])
def test_keeps_the_vocabulary_of_the_shape(tmp_path: Path, n_vocab: int) -> None:
    """The tokenizer has exactly the shape's size, unique tokens, and only merges of tokens in it."""
    path = build(tmp_path / "ghost.gguf", shape={**SMALL, "n_embd": 32, "n_vocab": n_vocab})
    metadata = read_header(path).metadata
    tokens, merges = list(metadata["tokenizer.ggml.tokens"]), list(metadata.get("tokenizer.ggml.merges", ()))
    assert len(set(tokens)) == len(tokens) == n_vocab == len(metadata["tokenizer.ggml.token_type"])
    known = set(tokens)
    assert all({*pair.split(" "), pair.replace(" ", "")} <= known for pair in merges)
    assert labkit.get_model_info(path).vocab_size == n_vocab


# Each row is a shape that exercises different rules; llama.cpp's quantizer is the reference.
MIXES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("llama", {"n_layer": 17, "n_vocab": 260}, ("Q4_K_M", "Q5_K_M", "Q3_K_M", "Q2_K", "Q4_0", "Q8_0")),
    ("llama", {"n_layer": 9, "n_embd": 96, "n_ff": 160, "n_head_kv": 1, "n_vocab": 260}, ("Q4_K_M", "Q2_K")),
    ("llama", {"n_layer": 80, "n_embd": 64, "n_ff": 64, "n_vocab": 260}, ("Q4_K_S",)),
    ("llama", {"n_expert": 8, "n_expert_used": 2, "n_vocab": 260, "tied": False}, ("Q4_K_M",)),
    ("deepseek2", {"n_lora_q": 64, "n_vocab": 260}, ("Q4_K_M", "MXFP4_MOE")),
    ("jamba", {"n_embd": 80, "n_head_kv": 1, "n_vocab": 260}, ("Q4_K_M",)),
    ("falcon-h1", {"n_vocab": 260}, ("Q5_K_M",)),
]


@pytest.mark.parametrize(("architecture", "shape", "quantizations"), MIXES, ids=str)
def test_tensor_types_equal_the_quantizers(
    tmp_path: Path, architecture: str, shape: dict[str, Any], quantizations: tuple[str, ...]
) -> None:
    """A ghost's tensors have the types, sizes and names of its F16 version quantized by llama.cpp."""
    source = build(tmp_path / "f16.gguf", architecture=architecture, shape=shape, quantization="F16")
    for quantization in quantizations:
        ghost = build(tmp_path / f"{quantization}.gguf", architecture=architecture, shape=shape, quantization=quantization)
        labkit.quantize_model(source, tmp_path / "real.gguf", quantization, overwrite=True)
        ours, theirs = (read_header(path).tensors for path in (ghost, tmp_path / "real.gguf"))
        types = [{t.name: (t.type.name, t.n_elements, t.n_bytes) for t in tensors} for tensors in (ours, theirs)]
        assert types[0] == types[1]


# name -> bytes of the tensors in Q4_K_M and number of weights, from the model cards of the real models' files
KNOWN = {("llama", "7B"): (4.08e9, 6.74e9), ("llama", "1B"): (0.80e9, 1.24e9), ("llama", "3B"): (2.01e9, 3.21e9),
         ("llama", "8x7B"): (28.4e9, 46.7e9), ("llama", "70B"): (41.4e9, 69.0e9)}  # fmt: skip


@pytest.mark.parametrize(("row", "sizes"), KNOWN.items(), ids=str)
def test_sizes_equal_the_real_models(row: tuple[str, str], sizes: tuple[float, float]) -> None:
    """Weights and bytes of a named shape equal the real model's, within one percent."""
    architecture, name = row
    shape = find_shape(architecture, name).shape
    plan = choose_types(file_type("Q4_K_M"), architecture, shape, layout(architecture, shape))
    n_bytes = sum(kind.row_bytes(tensor.shape[0]) * (tensor.n_elements // tensor.shape[0]) for tensor, kind in plan)
    assert (n_bytes, sum(tensor.n_elements for tensor, _ in plan)) == pytest.approx(sizes, rel=0.01)


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """The same seed gives the same bytes; another seed gives different bytes of the same size."""
    first, again, other = (build(tmp_path / f"{i}.gguf", seed=seed).read_bytes() for i, seed in enumerate((1, 1, 2)))
    assert first == again
    assert first != other
    assert len(first) == len(other)


def test_says_that_it_is_synthetic(tmp_path: Path) -> None:
    """Name, description and tags say so."""
    metadata = read_header(build(tmp_path / "ghost.gguf")).metadata
    assert "synthetic" in metadata["general.name"]
    assert "random weights" in metadata["general.description"]
    assert {"synthetic", "random-weights"} <= set(metadata["general.tags"])


@settings(max_examples=40)
@given(data=st.data())
def test_builds_valid_files_of_any_size(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """For any consistent sizes, the file passes the reader and the preflight."""
    architecture = data.draw(st.sampled_from([architecture for architecture, _ in TINY]))
    shape: dict[str, Any] = {
        "n_layer": data.draw(st.integers(2, 5)),
        "n_embd": 16 * data.draw(st.integers(1, 8)),
        "n_vocab": data.draw(st.integers(252, 300)),
    }
    if "n_ff" in find_shape(architecture, "tiny").settable:
        shape["n_ff"] = data.draw(st.integers(1, 200))
    if "ssm_n_group" in find_shape(architecture, "tiny").settable:
        shape["ssm_dt_rank"] = 2 * data.draw(st.sampled_from([1, 2, 4]))
    quantization = data.draw(st.sampled_from(["F32", "F16", "Q8_0", "Q4_K_M", "Q3_K_M", "IQ4_XS"]))
    path = tmp_path_factory.mktemp("ghost") / "ghost.gguf"
    header = read_header(build(path, architecture=architecture, shape=shape, quantization=quantization))
    assert preflight(header) == () == header.warnings
    path.unlink()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "lama"}, "did you mean 'llama'"),
    ({"architecture": "lama"}, "gemma3"),
    ({"shape": "8000B"}, "its shapes are"),
    ({"shape": "270M"}, "architecture='gemma3' has"),
    ({"shape": {"n_layers": 2}}, "did you mean 'n_layer'"),
    ({"shape": {"n_swa": 2}}, "its keys are n_vocab"),
    ({"shape": {"n_embd": 250}}, "not a multiple of n_head"),
    ({"shape": {"n_head_kv": 3}}, "not a multiple of n_head_kv"),
    ({"shape": {"n_layer": -1}}, "'n_layer'=-1 is out of range: it must be 1 to"),
    ({"shape": {"n_layer": 513}}, "at most 512"),
    ({"shape": {"n_vocab": 100}}, "needs 252 tokens or more"),
    ({"shape": {"norm_eps": float("nan")}}, "out of range"),
    ({"shape": {"n_expert": 2, "n_expert_used": 3}}, "n_expert_used is 3"),
    ({"shape": {"ssm_d_inner": 100}, "architecture": "mamba"}, "twice n_embd"),
    ({"shape": {"attention_layers": [9]}, "architecture": "jamba"}, "no attention layer"),
    ({"quantization": "Q4_KM"}, "did you mean 'Q4_K_M'"),
    ({"quantization": "IQ2_XS"}, "importance matrix"),
    ({"quantization": "Q1_0"}, "no fallback"),
    ({"seed": -1}, "seed=-1 is out of range"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=str)
def test_invalid_arguments_are_one_line_errors(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    """For a wrong name or number, one line says what exists or what is needed, and no file is written."""
    with pytest.raises(ArgumentError, match=message) as caught:
        build(tmp_path / "ghost.gguf", **arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


MISTYPED: list[dict[str, Any]] = [
    {"shape": 7},
    {"shape": {"n_layer": 2.0}},
    {"shape": {"tied": 1}},
    {"shape": {"attention_layers": 1}, "architecture": "lfm2"},
    {"architecture": None},
    {"seed": "0"},
]


@pytest.mark.parametrize("arguments", MISTYPED, ids=str)
def test_refuses_wrong_types(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """A wrong type is an `ArgumentTypeError`."""
    with pytest.raises(ArgumentTypeError):
        build(tmp_path / "ghost.gguf", **arguments)


def test_leaves_nothing_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C keeps the old target and leaves no other file; an existing target and a full disk are refused first."""
    target = tmp_path / "ghost.gguf"
    target.write_bytes(b"older")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(target, overwrite=True, progress=stop)
    with pytest.raises(ArgumentError, match="overwrite=True"):
        build(target)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(10, 9, 1))
    with pytest.raises(ArgumentError, match="free disk space"):
        build(tmp_path / "other.gguf")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_reports_progress_in_bytes(tmp_path: Path) -> None:
    """Progress grows to the size of the file."""
    seen: list[tuple[int, int]] = []
    path = build(tmp_path / "ghost.gguf", progress=lambda done, total: seen.append((done, total)))
    size = path.stat().st_size
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)
    assert {total for _, total in seen} == {size}


@pytest.mark.parametrize("name", [row.name for row in TENSOR_TYPES.values()])
def test_quantizes_rows_to_every_weight_type(name: str) -> None:
    """llama.cpp's quantizer encodes rows of each weight type; other types are refused with a clear error."""
    rows = np.random.default_rng(0).standard_normal((2, 256), np.float32)
    if name in NEEDS_IMPORTANCE or name in ("Q8_1", "Q8_K", "F64", "I8", "I16", "I32", "I64"):
        with pytest.raises(ArgumentError, match="choose another type"):
            quantize_rows(name, rows)
        return
    kind = next(row for row in TENSOR_TYPES.values() if row.name == name)
    assert quantize_rows(name, rows).shape == (2, kind.row_bytes(256))


def test_needs_little_memory(tmp_path: Path) -> None:
    """The pools have a few MB for tensors of any size: those of a 70B are smaller than 64 MiB."""
    shape = find_shape("llama", "70B").shape
    plan = choose_types(file_type("Q4_K_M"), "llama", shape, layout("llama", shape))
    pools = Pools(plan, 0)
    sizes = {(kind.id, tensor.shape[0], tensor.fill): kind for tensor, kind in plan if len(tensor.shape) > 1}
    in_all = sum(pools._units[key] * kind.block_bytes for key, kind in sizes.items())
    assert in_all < parse_bytes("64 MiB")


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen3moe"])
def test_shape_header_is_the_files(tmp_path: Path, architecture: str) -> None:
    """The header made without a file has the tensors and sizes of the file that would be written."""
    made = shape_header(architecture, "tiny", "Q4_K_M")
    read = read_header(build(tmp_path / "ghost.gguf", architecture=architecture, shape="tiny", quantization="Q4_K_M"))
    rows = [[(t.name, t.shape, t.type.name, t.n_bytes, t.n_elements) for t in header.tensors] for header in (made, read)]
    assert rows[0] == rows[1]
    assert set(made.metadata) < set(read.metadata)
    assert pass_work(made, n_parallel=3, depth=700) == pass_work(read, n_parallel=3, depth=700)
