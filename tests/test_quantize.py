"""The codecs are bit-identical to llama.cpp's, and quantize_model writes a complete file or none."""

from __future__ import annotations

import ctypes
import shutil
from collections import namedtuple
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labkit.errors import ArgumentError, GGUFError, LabkitWarning
from labkit.gguf_file import read_header
from labkit.gguf_file.formats import FILE_TYPES, tensor_type
from labkit.ghost import build_ghost_model
from labkit.model_info import get_model_info
from labkit.models import bundled_model_path
from labkit.quantize import CODECS, Q4_K, Q8_0, QuantizationError, quantize_model
from labkit.system.build import ggml_function
from tests.test_gguf_file import assert_parity
from tests.test_model_info import assert_engine_parity

ENCODERS = ("Q8_0", "Q4_0", "Q4_1")
LARGEST = float(np.finfo(np.float32).max)


def engine_encode(name: str, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Encode with llama.cpp's ggml_quantize_chunk."""
    kind = tensor_type(name)
    data = np.zeros((len(rows), rows.shape[1] // kind.block_size * kind.block_bytes), np.uint8)
    chunk = ggml_function("ggml_quantize_chunk", ctypes.c_size_t)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (rows, data)]
    sizes = [ctypes.c_int64(size) for size in (0, *rows.shape)]
    assert chunk(ctypes.c_int(kind.id), *pointers, *sizes, None) == data.nbytes
    return data


def engine_decode(name: str, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Decode with llama.cpp's dequantize_row_*."""
    kind = tensor_type(name)
    weights = np.zeros(data.size // kind.block_bytes * kind.block_size, np.float32)
    function = ggml_function(f"dequantize_row_{name[:3].lower()}{name[3:]}", None)
    function(data.ctypes.data_as(ctypes.c_void_p), weights.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(weights.size))
    return weights.reshape(len(data), -1)


def package_type(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name]


def same_bits(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    """Return whether values are bit-identical; all NaNs count as equal."""
    return bool(np.all((one.view(np.uint32) == other.view(np.uint32)) | (np.isnan(one) & np.isnan(other))))


weights_of_any_size = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.sampled_from([32, 64, 96])),
    elements=st.one_of(
        st.floats(-LARGEST, LARGEST, width=32),
        st.floats(-1, 1, width=32),
        st.sampled_from([0.0, -0.0, 0.5, -0.5, 1e-40, -1e-45, LARGEST, -LARGEST]),
    ),
)


@pytest.mark.parametrize("name", ENCODERS)
@given(weights=weights_of_any_size)
@settings(max_examples=2 * settings.default.max_examples)
def test_encode_equals_the_engine_for_any_weights(name: str, weights: npt.NDArray[np.float32]) -> None:
    """Zeros, denormals and the largest floats give llama.cpp's bytes; below a scale of 3e-39, its decoded weights."""
    ours, theirs = CODECS[name].encode(weights), engine_encode(name, weights)
    with np.errstate(all="ignore"):
        blocks = weights.reshape(-1, 32)
        spread = blocks.max(axis=1) - blocks.min(axis=1) if name == "Q4_1" else np.abs(blocks).max(axis=1)
        regular = (spread == 0) | ((spread > 1e-36) & np.isfinite(spread))
    if regular.all():
        assert np.array_equal(ours, theirs)
    assert same_bits(CODECS[name].decode(ours), engine_decode(name, theirs))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("scale", [1e-30, 1e-5, 0.02, 1.0, 1e4])
def test_encode_equals_the_engine_and_the_package(name: str, scale: float) -> None:
    """For 100,000 random weights of any magnitude, all three give the same bytes."""
    weights = np.random.default_rng(0).normal(0, scale, (100, 1024)).astype(np.float32)
    ours = CODECS[name].encode(weights)
    assert np.array_equal(ours, engine_encode(name, weights))
    assert np.array_equal(ours, gguf.quants.quantize(weights, package_type(name)))


@pytest.mark.parametrize("name", ENCODERS)
def test_zeros_are_encoded_as_the_engine_does(name: str) -> None:
    """Blocks of zeros of either sign give llama.cpp's bytes."""
    weights = np.zeros((3, 32), np.float32)
    weights[1], weights[2, ::2] = -0.0, -0.0
    assert np.array_equal(CODECS[name].encode(weights), engine_encode(name, weights))


@pytest.mark.parametrize("name", CODECS)
def test_decode_equals_the_engine_and_the_package(name: str) -> None:
    """Random bytes decode to the same weights as in llama.cpp and the gguf package, bit for bit."""
    kind = tensor_type(name)
    data = np.random.default_rng(1).integers(0, 256, (500, 3 * kind.block_bytes), np.uint8)
    ours = CODECS[name].decode(data)
    assert same_bits(ours, engine_decode(name, data))
    with np.errstate(all="ignore"):
        assert same_bits(ours, gguf.quants.dequantize(data, package_type(name)))


def test_decode_equals_the_engine_on_encoded_weights() -> None:
    """A Q4_K tensor from llama.cpp decodes to the same weights as in llama.cpp."""
    weights = np.random.default_rng(2).normal(0, 0.02, (20, 512)).astype(np.float32)
    data = engine_encode("Q4_K", weights)
    assert same_bits(Q4_K.decode(data), engine_decode("Q4_K", data))
    assert np.abs(Q4_K.decode(data) - weights).max() < 0.01


def test_shapes_keep_their_leading_axes() -> None:
    """Only the last axis changes its length."""
    data = Q8_0.encode(np.ones((2, 3, 64)))
    assert data.shape == (2, 3, 68)
    assert Q8_0.decode(data).shape == (2, 3, 64)
    assert Q8_0.encode(np.zeros((0, 32))).shape == (0, 34)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Q8_0.encode(np.zeros(31)), "multiple of 32"),
        (lambda: Q8_0.encode(1.0), "multiple of 32"),
        (lambda: Q8_0.encode([np.nan] * 32), "NaN or infinite"),
        (lambda: Q8_0.encode([np.inf] * 32), "NaN or infinite"),
        (lambda: Q8_0.decode(np.zeros(33, np.uint8)), "multiple of 34"),
        (lambda: Q8_0.decode(np.zeros(34)), "uint8"),
        (lambda: Q4_K.encode(np.zeros(256)), "only be decoded"),
    ],
)
def test_codec_errors_are_one_line(call: object, message: str) -> None:
    """Invalid input raises an ArgumentError that says what is needed."""
    with pytest.raises(ArgumentError, match=message) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


# Types that llama.cpp makes only with an importance matrix, or not from a model like this.
NEED_MORE = {
    **dict.fromkeys(("Q2_K_S", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"), "importance matrix"),
    "NVFP4": "invalid output file type",
    "Q1_0": "no tensor type fallback",
}


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundled model in F16."""
    target = tmp_path_factory.mktemp("quantize") / "f16.gguf"
    with pytest.warns(LabkitWarning, match="already quantized"):
        result = quantize_model(bundled_model_path(), target, "F16")
    assert result.target_bytes == target.stat().st_size == 270_885_952
    assert result.warnings
    return target


@pytest.mark.parametrize(
    ("name", "megabytes", "n_fallbacks"), [("Q8_0", 145, 0), ("Q4_0", 92, 1), ("Q4_K_M", 105, 180), ("Q3_K_M", 94, 180)]
)
def test_quantize_gives_the_known_sizes(f16: Path, tmp_path: Path, name: str, megabytes: int, n_fallbacks: int) -> None:
    """The bundled model's sizes equal those from llama.cpp's tool; the fallbacks due to its width are listed."""
    steps: list[tuple[int, int]] = []
    result = quantize_model(f16, tmp_path / "q.gguf", name.lower(), progress=lambda done, total: steps.append((done, total)))
    assert result.quantization == name
    assert round(result.target_bytes / 1e6) == megabytes
    assert len(result.fallbacks) == n_fallbacks
    assert steps == [(n, 272) for n in range(1, 273)]
    assert sum(n for n, _ in result.tensor_types.values()) == 272
    assert [path.name for path in tmp_path.iterdir()] == ["q.gguf"]


@pytest.fixture(scope="module")
def four_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ghost with the bundled model's widths and few layers, because some types are slow to quantize."""
    widths = {"n_layer": 4, "n_embd": 576, "n_ff": 1536, "n_head": 9, "n_head_kv": 3}
    return build_ghost_model(tmp_path_factory.mktemp("quantize") / "ghost.gguf", shape=widths, quantization="F16")


# One type of each family; all types with --thorough, as in CI.
FAMILIES = {"F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q2_K", "Q4_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "MXFP4_MOE"}
THOROUGH = [f"test_every_type_is_read_correctly[{kind.name}]" for kind in FILE_TYPES.values() if kind.name not in FAMILIES]


@pytest.mark.parametrize("name", [kind.name for kind in FILE_TYPES.values()])
def test_every_type_is_read_correctly(four_layers: Path, tmp_path: Path, name: str) -> None:
    """For each type, keys, tensors and figures equal the gguf package's and llama.cpp's."""
    target = tmp_path / "q.gguf"
    if name in NEED_MORE:
        with pytest.raises(QuantizationError, match=NEED_MORE[name]):
            quantize_model(four_layers, target, name)
        assert list(tmp_path.iterdir()) == []
        return
    quantize_model(four_layers, target, name)
    assert get_model_info(target).quantization == name
    if name != "Q2_0":  # gguf's reader does not know it yet
        assert_parity(read_header(target), target)
    assert_engine_parity(target)


def test_quantized_model_generates(f16: Path, tmp_path: Path) -> None:
    """A quantized model loads and continues a text."""
    import labkit

    result = quantize_model(f16, tmp_path / "q.gguf", "Q8_0")
    with labkit.load_model(result.target, n_ctx=256) as model:
        assert labkit.generate_text(model, "The capital of France is", max_tokens=5, temperature=0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_interrupt_leaves_no_file(f16: Path, tmp_path: Path, error: type[BaseException]) -> None:
    """Ctrl-C, or an error in the progress function, leaves the folder and an older target unchanged."""
    target = tmp_path / "q.gguf"
    target.write_bytes(b"older")

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise error

    with pytest.raises(error):
        quantize_model(f16, target, "Q8_0", progress=stop, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["q.gguf"]
    assert target.read_bytes() == b"older"


def test_engine_error_is_one_line_and_leaves_no_file(f16: Path, tmp_path: Path) -> None:
    """A type that needs an importance matrix is refused with llama.cpp's message."""
    with pytest.raises(QuantizationError, match="importance matrix") as caught:
        quantize_model(f16, tmp_path / "q.gguf", "IQ1_S")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_refusals_say_what_to_do(f16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused: an unknown type, the source as target, an existing target, a missing folder, a broken source, a full disk."""
    target = tmp_path / "q.gguf"
    with pytest.raises(ArgumentError, match="did you mean 'Q4_K_M'"):
        quantize_model(f16, target, "Q4_KM")
    with pytest.raises(ArgumentError, match="is the source"):
        quantize_model(f16, f16, "Q8_0", overwrite=True)
    with pytest.raises(ArgumentError, match="create it first"):
        quantize_model(f16, tmp_path / "none" / "q.gguf")
    with pytest.raises(ArgumentError, match="n_threads=0"):
        quantize_model(f16, target, n_threads=0)
    target.write_bytes(b"older")
    with pytest.raises(ArgumentError, match="overwrite=True"):
        quantize_model(f16, target)
    with pytest.raises(GGUFError):
        quantize_model(target, tmp_path / "r.gguf")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(10, 9, 1))
    with pytest.raises(ArgumentError, match="free disk space"):
        quantize_model(f16, tmp_path / "r.gguf")
