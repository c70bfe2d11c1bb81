"""The quantization explorer shows a tensor's weights in llama.cpp's types, and their errors."""

import threading
from pathlib import Path

import gguf
import numpy as np
import pytest

from labkit.errors import ArgumentError
from labkit.gguf_file import read_header
from labkit.gguf_file.formats import tensor_type
from labkit.models import bundled_model_path
from labkit.plots.quantization import plot_quantization
from labkit.quantize import CODECS
from labkit.widgets import explore
from labkit.widgets.parts.weights import CHUNK, TYPES, can_decode, loss, losses, read_weights, requantize, sample
from labkit.widgets.quantization import STRIP_LENGTH, QuantizationExplorer, strip
from tests.gguf_zoo import STRING, Raw, RawTensor, key

MATRIX = "blk.3.ffn_down.weight"


@pytest.fixture(scope="module")
def header():
    return read_header(bundled_model_path())


@pytest.fixture(scope="module")
def explorer():
    made = QuantizationExplorer(bundled_model_path())
    yield made
    made.close()


def move(explorer: QuantizationExplorer, **values: object) -> str:
    for name, value in values.items():
        explorer.controls[name].value = value
    assert explorer.wait()
    return explorer.view.sentence


def normal(count: int = 4096) -> np.ndarray:
    return np.random.default_rng(0).normal(size=count).astype(np.float32)


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
def test_requantize_is_what_the_libraries_do(name: str) -> None:
    """A type's error falls with its bits; for types that labkit or gguf encodes, the weights are the same."""
    weights = normal()
    found = requantize(name, weights)
    assert 2.0 ** -tensor_type(name).bits_per_weight < loss(weights, found).relative < 3.5 * 2.0 ** -(int(name[1]) - 1)
    if name in CODECS and name != "Q4_K":  # labkit only decodes Q4_K
        assert np.array_equal(found, CODECS[name].decode(CODECS[name].encode(weights)))
        kind = gguf.GGMLQuantizationType[name]
        assert np.array_equal(found, gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind))


def test_loss_is_relative_to_the_weights() -> None:
    """The RMS error is a fraction of the weights' RMS; zeros have no error."""
    assert loss(np.float32([3, -4]), np.float32([3, -3.5])).relative == pytest.approx(0.1)
    assert loss(np.zeros(4, np.float32), np.zeros(4, np.float32)).relative == 0


def test_more_bits_lose_less() -> None:
    """For random weights, a type with more bits in its name has a smaller error."""
    found = losses(normal())
    assert tuple(found) == TYPES
    assert found["Q8_0"].relative < found["Q6_K"].relative < found["Q5_K"].relative < found["Q4_K"].relative
    assert found["Q4_K"].relative < found["Q3_K"].relative < found["Q2_K"].relative


def test_weights_too_large_are_an_error() -> None:
    """A type whose scales overflow is left out of the table, and an error when chosen."""
    huge = np.full(CHUNK, 1e38, np.float32)
    huge[::2] *= -1
    assert "Q4_0" not in losses(huge)
    with pytest.raises(ArgumentError, match="too large"):
        requantize("Q4_0", huge)


def test_a_sample_reaches_from_end_to_end(header) -> None:
    """From a large tensor 65,536 weights are read, from first to last; from a small one all whole chunks."""
    large, norm = header.tensor("token_embd.weight"), header.tensor("output_norm.weight")
    weights = sample(header, large)
    assert weights.shape == (1 << 16,)
    assert np.array_equal(weights[:1024], read_weights(header, large, 0, 1024))
    assert np.array_equal(weights[-1024:], read_weights(header, large, large.n_elements - 1024, 1024))
    assert sample(header, norm).shape == (512,)


def test_weights_are_those_of_gguf(header) -> None:
    """A tensor's weights are those that the gguf package decodes."""
    tensor = header.tensor(MATRIX)
    data = np.fromfile(bundled_model_path(), np.uint8, count=tensor.n_bytes, offset=tensor.offset)
    truth = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[tensor.type.name])
    assert np.array_equal(read_weights(header, tensor, 512, 1024), truth[512:1536])
    before, after = strip(header, tensor, "Q4_K", 64 * 7)
    assert np.array_equal(before, truth[448:512])
    assert np.array_equal(after, requantize("Q4_K", truth[256:512])[192:])


def test_integers_cannot_be_decoded() -> None:
    """Weights of any known type can be decoded; integers cannot."""
    assert all(can_decode(name) for name in (*TYPES, "F32", "F16", "BF16", "IQ2_XXS", "MXFP4"))
    assert not can_decode("I32")


def test_plot_marks_the_chosen_type() -> None:
    """The figure has one point per type, the chosen one marked by shape and name, and complete alt text."""
    types = {"Q8_0": (8.5, 0.005), "Q4_0": (4.5, 0.09), "Q4_1": (5.0, 0.0)}
    weights = normal(64)
    figure = plot_quantization(weights, weights, weights * 0, types, chosen="Q4_0", first=128)
    strip_axes, _, costs = figure.axes
    assert strip_axes.get_xlim() == (127.5, 191.5)
    assert costs.lines[0].get_xydata().tolist() == [[8.5, 0.5], [4.5, 9.0], [5.0, 0.0]]
    assert (costs.lines[1].get_marker(), costs.lines[1].get_xydata().tolist()) == ("s", [[4.5, 9.0]])
    assert sorted(text.get_text() for text in costs.texts) == ["Q4_0 (chosen)", "Q4_1", "Q8_0"]
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    assert "Q4_0: 4.5 bits, error 9 %" in figure.get_label()
    assert "Weights 128 to 191" in figure.get_label()


# -- the explorer ------------------------------------------------------------------------------------------------------


def test_the_sentence_has_the_numbers(explorer, header) -> None:
    """The sentence has bits, errors, the sample and what “before” means, as the pure functions compute them."""
    text = move(explorer, tensor=MATRIX, type="Q4_0")
    weights = sample(header, header.tensor(MATRIX))
    found = loss(weights, requantize("Q4_0", weights))
    assert f"{MATRIX} as Q4_0: 4.5 bits per weight, 5 in the file" in text
    assert "a sample of 65,536 of its 884,736 weights" in text
    assert (
        f"is {found.rms:.3g}, {100 * found.relative:.2g} % of the weights' RMS; the worst error is {found.worst:.3g}" in text
    )
    assert "what the file's Q4_1 blocks decode to, not the originally trained weights" in text
    assert "fall back" not in text


def test_the_files_own_type_loses_nothing(explorer) -> None:
    """Weights that are exactly representable in a type have no error: Q4_1 again loses nothing."""
    assert "Nothing is lost" in move(explorer, tensor=MATRIX, type="Q4_1")
    assert "Before” are the file's F32 weights" in move(explorer, tensor="output_norm.weight")


def test_rows_that_do_not_fit_are_mentioned(explorer) -> None:
    """A row of 576 weights is not a multiple of 256, so llama.cpp would use another type."""
    assert "Rows of 576 weights are not a multiple of Q4_K's block of 256" in move(
        explorer, tensor="blk.3.attn_q.weight", type="Q4_K"
    )


def test_the_tables_have_types_and_weights(explorer, header) -> None:
    """The first table has one row per type, the second the 64 weights that are shown."""
    move(explorer, tensor=MATRIX, type="Q5_K", first=640)
    types, weights = explorer.view.tables
    expected = losses(sample(header, header.tensor(MATRIX)))
    assert [row[0] for row in types.rows] == list(TYPES)
    assert [row[3] for row in types.rows] == [f"{one.rms:.3g}" for one in expected.values()]
    before, after = strip(header, header.tensor(MATRIX), "Q5_K", 640)
    assert [row[0] for row in weights.rows] == [f"{640 + index}" for index in range(STRIP_LENGTH)]
    assert [row[1:3] for row in weights.rows] == [
        (f"{old:.5g}", f"{new:.5g}") for old, new in zip(before.tolist(), after.tolist(), strict=True)
    ]


def test_the_strip_stays_inside(explorer, header) -> None:
    """The slider ends at the tensor's last whole chunk, and moves when a smaller tensor is chosen."""
    move(explorer, tensor="token_embd.weight", first=10**9)
    assert explorer.controls["first"].value == header.tensor("token_embd.weight").n_elements - STRIP_LENGTH
    move(explorer, tensor="output_norm.weight")
    assert explorer.controls["first"].value == 512 - STRIP_LENGTH
    assert explorer.message == ""


def _model(path: Path, weights: np.ndarray) -> Path:
    tensor = RawTensor(b"<b>$w$", weights.shape[::-1], 0, 0, weights.astype("<f4").tobytes())
    return Raw([key("general.architecture", STRING, "llama")], [tensor]).write(path)


def test_weights_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    """NaN, infinite or too large weights are one-line errors, and the explorer continues. Markup stays text."""
    nan = QuantizationExplorer(_model(tmp_path / "nan.gguf", np.full((2, 256), np.nan, np.float32)))
    assert "NaN" in nan.message
    huge = np.tile(np.float32([1e38, -1e38]), (2, 128))
    large = QuantizationExplorer(_model(tmp_path / "huge.gguf", huge))
    assert "too large" in large.message
    zeros = QuantizationExplorer(_model(tmp_path / "zeros.gguf", np.zeros((2, 256), np.float32)))
    assert zeros.message == ""
    assert "<b>" not in zeros._page.value
    for made in (nan, large, zeros):
        move(made, type="Q8_0")
        made.close()


def test_a_damaged_or_empty_file_is_one_line(tmp_path: Path) -> None:
    """The error is one line and the controls still work, also if nothing can be decoded."""
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    made = QuantizationExplorer(path)
    move(made, type="Q8_0")
    assert "damaged.gguf" in made.message
    assert "\n" not in made.message
    small = QuantizationExplorer(_model(tmp_path / "small.gguf", np.zeros((1, 32), np.float32)))
    assert "no tensor of 256 weights or more" in small.message
    made.close()
    small.close()


def test_an_unknown_initial_value_is_an_error() -> None:
    """The initial type and tensor must be among the options."""
    with pytest.raises(ArgumentError, match="Q4_0"):
        QuantizationExplorer(quantization="Q9_Z")
    with pytest.raises(ArgumentError, match="no tensor 'blk'"):
        QuantizationExplorer(tensor="blk")


def test_closing_leaves_nothing() -> None:
    """After close no thread is left."""
    made = explore("quantization", quantization="Q8_0")
    made.controls["type"].value = "Q4_K"
    made.close()
    made.close()
    assert "labkit-explorer" not in [thread.name for thread in threading.enumerate()]
