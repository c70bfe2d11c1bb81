"""The GGUF explorer shows a file's contents, from its first bytes to a block, as other readers do."""

import threading
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from labkit.gguf_file import read_header
from labkit.gguf_file.fields import fields
from labkit.gguf_file.formats import tensor_type
from labkit.models import bundled_model_path
from labkit.plots.file_bytes import plot_groups
from labkit.plots.picture import canvas
from labkit.quantize.blocks import quantize_rows
from labkit.widgets import explore
from labkit.widgets.gguf import N_FIRST, GGUFExplorer
from labkit.widgets.parts.block import half, parts_of, steps_of
from labkit.widgets.parts.fields_html import hex_html
from labkit.widgets.parts.header_tables import groups_of, keys_table, tensors_table
from tests.gguf_zoo import STRING, U32, Raw, RawTensor, key, small, tiny


@pytest.fixture(scope="module")
def header():
    return read_header(bundled_model_path())


@pytest.fixture(scope="module")
def explorer():
    made = GGUFExplorer(bundled_model_path())
    yield made
    made.close()


def move(explorer: GGUFExplorer, **values: object) -> str:
    for name, value in values.items():
        explorer.controls[name].value = value
    assert explorer.wait()
    return explorer.view.sentence


# -- fields ------------------------------------------------------------------------------------------------------------


def well_placed(data: bytes) -> None:
    """Assert that the fields are contiguous from byte 0 and stay within the data."""
    end = 0
    for field in fields(data):
        assert (field.offset, field.size > 0) == (end, True)
        end = field.end
    assert end <= len(data)


@given(st.binary(max_size=400))
def test_fields_take_any_bytes(data: bytes) -> None:
    """No error and no overlap, with or without a valid start of the header."""
    well_placed(data)
    well_placed(b"GGUF\3\0\0\0" + data)
    well_placed(b"GGUF\3\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0k" + data)


@given(st.integers(0, 1400), st.integers(0, 1400), st.integers(0, 255))
def test_fields_take_damaged_files(length: int, at: int, byte: int) -> None:
    """A file truncated anywhere, with any byte changed, still has its fields in order."""
    data = bytearray(tiny().bytes())
    data[at % len(data)] = byte
    well_placed(bytes(data[:length]))


def test_fields_agree_with_gguf_reader(tmp_path: Path) -> None:
    """For every key, the fields have the sizes of the parts that the gguf package reads, in order."""
    path = small().write(tmp_path / "small.gguf")
    reader = gguf.GGUFReader(path)
    parts = [part for one in reader.fields.values() if not one.name.startswith("GGUF.") for part in one.parts]
    wanted = [part.nbytes for part in parts if part.nbytes]
    found = fields(path.read_bytes())
    assert [field.size for field in found[4 : 4 + len(wanted)]] == wanted
    assert [field.value for field in found if field.name == "tensor name"] == [tensor.name for tensor in reader.tensors]


def test_fields_agree_with_labkit(tmp_path: Path) -> None:
    """Counts, names, plain values and tensor offsets are those of read_header, and the fields reach the padding."""
    path = small().write(tmp_path / "small.gguf")
    header, found = read_header(path), fields(path.read_bytes())
    assert [field.value for field in found[:4]] == ["GGUF", header.version, len(header.tensors), len(header.metadata)]
    assert [field.value for field in found if field.name == "key name"] == list(header.metadata)
    plain = [value for name, value in header.metadata.items() if not header.types[name].startswith("array")]
    assert [field.value for field in found if field.name == "value"] == plain
    offsets = [header.data_offset + field.value for field in found if field.name == "tensor offset"]
    assert offsets == [tensor.offset for tensor in header.tensors]
    assert [field.note for field in found if field.name == "tensor type"] == [tensor.type.name for tensor in header.tensors]
    assert 0 <= header.data_offset - found[-1].end < header.alignment


def test_fields_say_why_they_end() -> None:
    """The last field's note explains a wrong magic, an unknown version or type, or a truncated file."""
    head = small().bytes()
    assert "not the magic of a GGUF file" in fields(b"<!DOCTYPE html>")[-1].note
    assert "version" in fields(b"GGUF\0\0\0\3" + head[8:])[-1].note
    assert "cut" in fields(head[:30])[-1].note
    assert fields(head[:30])[-1].value is None
    assert "unknown" in fields(Raw([key("a", U32, 1).replace(b"a\4", b"a\x63")], []).bytes())[-1].note
    assert fields(b"") == ()


def test_hex_names_every_field() -> None:
    """The HTML has each byte once, and each field's name in the line where it starts; text is escaped."""
    data = Raw([key("<b>$x", STRING, "<script>")], []).bytes()
    page = hex_html(data, fields(data))
    assert page.count("background:#") == len(data) + 1  # and the page's
    assert "1 magic, 2 version" in page
    assert "<script>" not in page
    assert "<b>" not in page


# -- groups ------------------------------------------------------------------------------------------------------------


def test_plot_groups_names_all_groups(header) -> None:
    """Each group has a bar with its tensors, size and share; the largest is first, and all are in the alt text."""
    axes = plot_groups(groups_of(header.tensors, "part of the model"), axes=canvas(3))
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0].startswith("feed-forward, ")
    assert len(names) == len(axes.patches) == 4
    assert "attention, 120 tensors: 15.82 MiB, 17.2 %" in axes.get_label()
    assert all(name in axes.get_label() for name in names)
    assert isinstance(plot_groups({}, axes=canvas(3)), Axes)


def test_groups_include_every_byte(header) -> None:
    """With any grouping, the bytes add up to the weights'."""
    for grouping in ("part of the model", "tensor type"):
        groups = groups_of(header.tensors, grouping)
        assert sum(map(sum, groups.values())) == header.weights_bytes
    assert {name: (len(sizes), sum(sizes)) for name, sizes in groups.items()} == header.tensor_types


# -- a block -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "F16"])
def test_steps_lead_to_the_weights(name: str) -> None:
    """The parts are the block's bytes, and the formulas give the weights that the gguf package decodes."""
    kind = tensor_type(name)
    weights = np.random.default_rng(1).normal(size=(1, kind.block_size)).astype(np.float32)
    raw = quantize_rows(name, weights)[0]
    steps = steps_of(kind, raw)
    truth = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert [step.weight for step in steps] == truth.astype(np.float32).tolist()
    assert b"".join(part.raw for part in parts_of(kind, raw)) == raw.tobytes()
    for step in steps:
        if step.formula:
            assert eval(step.formula.replace("×", "*")) == pytest.approx(step.weight, rel=2e-3, abs=2e-3)  # noqa: S307
    assert (steps[0].quant is not None) == (name in ("Q4_0", "Q4_1", "Q8_0", "Q4_K"))


def test_parts_decode_scale_and_minimum() -> None:
    """A Q4_1 block of 3 to 18 has scale 1 and minimum 3."""
    raw = quantize_rows("Q4_1", np.array([[3, 18] + [4] * 30], np.float32))[0]
    assert [part.meaning for part in parts_of(tensor_type("Q4_1"), raw)[:2]] == ["1", "3"]
    assert half(raw[:2]) == 1


# -- the explorer ------------------------------------------------------------------------------------------------------


def test_keys_are_all_there(explorer, header) -> None:
    """The first view has the counts and a row for each key; a search keeps those that match."""
    text = move(explorer, show="keys", search="")
    assert "version 3" in text
    assert "272 tensors and 33 keys" in text
    assert all(key in explorer.view.extra_html for key in header.metadata)
    assert "Shown: 2 of 33 keys" in move(explorer, search=" ROPE ")
    assert len(keys_table(header, "rope").rows) == 2
    assert "llama.rope.freq_base" in explorer.view.extra_html
    assert "general.name" not in explorer.view.extra_html


def test_tensors_are_all_there(explorer, header) -> None:
    """Tensors can be searched by name or type; the picture and the sums are those of the matches."""
    assert "272 of 272 tensors" in move(explorer, show="tensors", search="", group="tensor type")
    rows = {row[0]: (int(row[1]), int(row[2].replace(",", ""))) for row in explorer.view.tables[0].rows}
    assert rows == header.tensor_types
    assert "9 of 272 tensors" in move(explorer, search="blk.7.")
    assert "Bar chart of 2.11 MiB" in explorer.view.picture.get_label()
    assert "0 of 272 tensors" in move(explorer, search="no such tensor")
    table, found = tensors_table(header, "q8_0")
    assert [row[0] for row in table.rows] == [tensor.name for tensor in found] == ["token_embd.weight"]


def test_first_bytes_are_named(explorer, header) -> None:
    """The fields of the first 256 bytes are in the legend, and their bytes in the HTML."""
    assert f"The first {N_FIRST} of {header.file_size_bytes:,} bytes" in move(explorer, show="first bytes")
    for text in ("general.architecture", "1 magic", "272", "47</span>", "general."):
        assert text in explorer.view.extra_html


def test_a_block_is_decoded(explorer, header) -> None:
    """The weights of a block are those that the gguf package decodes; the slider ends at the tensor's last block."""
    tensor = header.tensor("blk.3.attn_k.weight")
    text = move(explorer, show="one block", tensor=tensor.name, block=10**6)
    last = tensor.n_elements // 32 - 1
    assert explorer.controls["block"].value == last
    assert f"Block {last:,} of {last + 1:,} in blk.3.attn_k.weight, Q4_1: 20 bytes for 32 weights" in text
    data = np.fromfile(bundled_model_path(), np.uint8, count=20, offset=tensor.offset + tensor.n_bytes - 20)
    for weight in gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q4_1):
        assert f">{weight:.6g}<" in explorer.view.extra_html
    move(explorer, tensor="output_norm.weight", block=0)
    assert explorer.view.picture is None
    assert explorer.message == ""


def test_unused_controls_are_hidden(explorer) -> None:
    """Each view shows only the controls that it uses."""
    move(explorer, show="keys")
    assert [name for name, one in explorer.controls.items() if one.layout.display is None] == ["show", "search"]
    move(explorer, show="one block")
    assert [name for name, one in explorer.controls.items() if one.layout.display is None] == ["show", "tensor", "block"]


def test_text_of_a_file_is_not_markup(tmp_path: Path) -> None:
    """Names and values with markup or dollars are shown as text."""
    keys = [key("general.architecture", STRING, "<i>a</i>"), key("<b>", STRING, "<img src=x onerror=alert(1)> $x$")]
    tensors = [RawTensor(b"<u>$\\frac$", (64,), 0, 0, bytes(256))]
    made = GGUFExplorer(Raw(keys, tensors).write(tmp_path / "markup.gguf"))
    for view in ("keys", "tensors", "first bytes", "one block"):
        move(made, show=view)
        assert made.message == ""
        assert not any(tag in made._page.value for tag in ("<i>", "<b>", "<img src=x", "<u>"))
    made.close()


def test_an_undecodable_type_has_its_parts(tmp_path: Path) -> None:
    """A tensor of integers shows its bytes, and that there is no decoder; empty tensors are not offered."""
    keys = [key("general.architecture", STRING, "llama")]
    tensors = [RawTensor(b"index", (4,), 26, 0, bytes(16)), RawTensor(b"none", (0,), 0, 32, b"")]
    made = GGUFExplorer(Raw(keys, tensors).write(tmp_path / "integers.gguf"), show="one block")
    assert [name for _, name in made.controls["tensor"].options] == ["index"]
    assert "no decoder" in made.view.sentence
    assert made.message == ""
    made.close()


def test_a_damaged_file_leaves_its_bytes(tmp_path: Path) -> None:
    """The error is one line, the explorer works, and the first bytes can still be shown."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(small().bytes()[:200])
    made = GGUFExplorer(path)
    assert "cut.gguf" in made.message
    assert "\n" not in made.message
    assert "The first 200 of 200 bytes" in move(made, show="first bytes")
    assert made.message == ""
    move(made, show="one block")
    assert "cut.gguf" in made.message
    made.close()


def test_a_shrunken_file_is_an_error(tmp_path: Path) -> None:
    """A file that became shorter after it was opened is an error in one line, not a crash."""
    path = small().write(tmp_path / "shrunk.gguf")
    made = GGUFExplorer(path)
    path.write_bytes(path.read_bytes()[:-410])
    move(made, show="one block")
    assert made.message
    made.close()


def test_closing_leaves_nothing() -> None:
    """After close no thread is left, and closing again does nothing."""
    made = explore("gguf", show="tensors")
    made.controls["group"].value = "tensor type"
    made.close()
    made.close()
    assert "labkit-explorer" not in [thread.name for thread in threading.enumerate()]
