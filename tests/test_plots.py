"""Plots draw the record's numbers with units, and have alt text."""

import html.parser
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from labkit import QuantizationComparison, QuantizationQuality, estimate_memory_usage, get_model_info
from labkit.course.predict import Comparison
from labkit.errors import ArgumentError
from labkit.plots import (
    Picture,
    plot_bytes,
    plot_cache_growth,
    plot_experts,
    plot_generation,
    plot_layers,
    plot_memory,
    plot_offload,
    plot_q4_0_block,
    plot_roofline,
    plot_tradeoff,
)
from labkit.plots.picture import canvas
from labkit.quantize import Q4_0

MEASURED = {  # of the bundled model: MB, KL divergence, relative decode speed
    "F16": (270.9, 0.0, 1.0),
    "Q8_0": (144.8, 0.0037, 1.21),
    "Q5_K_M": (112.1, 0.0687, 1.16),
    "Q4_K_M": (105.5, 0.0506, 1.23),
    "Q4_0": (91.7, 0.2313, 1.42),
    "Q3_K_M": (93.5, 0.1317, 1.55),
    "Q2_K": (88.2, 0.3674, 1.4),
}


def compared(measured=MEASURED) -> QuantizationComparison:
    rows = tuple(
        QuantizationQuality(
            name,
            round(mb * 1e6),
            8.0,
            20.0,
            2.0,
            1.0,
            kl,
            5 * kl,
            0.9,
            0.1,
            500.0,
            100.0,
            ratio,
            None,
            None,
            None,
            name == "F16",
        )
        for name, (mb, kl, ratio) in measured.items()
    )
    return QuantizationComparison(Path("model.gguf"), "an F16 copy of the source", 256, 508, (), rows)


@pytest.fixture(scope="module")
def info():
    return get_model_info()


def test_plot_bytes_draws_the_whole_file(info) -> None:
    """The bars add up to the file size: one per tensor type, then the header's."""
    widths = [bar.get_width() for bar in plot_bytes(info).patches]
    assert len(widths) == len(info.tensor_types) + 1
    assert sum(widths) * 2**20 == pytest.approx(info.file_size_bytes)
    assert widths[-1] * 2**20 == pytest.approx(info.file_size_bytes - info.weights_bytes)


def test_plot_bytes_names_axes_units_and_parts(info) -> None:
    """Both axes have labels, sizes with their unit; every bar has a name and a share."""
    axes = plot_bytes(info)
    assert axes.get_xlabel() == "size (MiB)"
    assert axes.get_ylabel()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["Q4_1, 210 tensors", "Q8_0, 1 tensor", "F32, 61 tensors", "header"]
    assert [text.get_text().split(", ")[1] for text in axes.texts] == ["67.5 %", "30.6 %", "0.1 %", "1.8 %"]


def test_plot_bytes_distinguishes_bars_without_colour(info) -> None:
    """The header's bar has a hatch, which is visible in grey print."""
    hatches = [bar.get_hatch() for bar in plot_bytes(info).patches]
    assert hatches == ["", "", "", "//"]


def test_plot_bytes_draws_into_given_axes(info) -> None:
    """Given Axes are used, so a figure can have several panels."""
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert plot_bytes(info, axes=right) is right
    assert not left.patches


def test_picture_has_alt_text(info) -> None:
    """The image in a notebook has alt text that names every part; the plain form is the same text."""
    picture = Picture(plot_bytes(info))
    found = {}
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.update(attrs)  # type: ignore[method-assign]
    parser.feed(picture._repr_html_())
    assert found["src"].startswith("data:image/png;base64,")
    assert found["alt"] == picture.text == repr(picture)
    for name in (*info.tensor_types, "header", "MiB"):
        assert name in picture.text


def test_picture_escapes_its_alt_text(info) -> None:
    """Any alt text is escaped, although type names come from a table."""
    axes = plot_bytes(info)
    axes.set_label('"><script>alert(1)</script>')
    assert "<script>" not in Picture(axes)._repr_html_()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_bytes(get_model_info()),
        lambda: plot_cache_growth(["The", " capital", " of", " France", " is"], [" Paris", "."], n_layers=30, n_cells=10),
        lambda: plot_generation([(4649, " internationally")] * 7, n_layers=30, candidates=[(" internationally", 1.0)] * 4),
        lambda: plot_q4_0_block(bytes(range(18))),
        lambda: plot_tradeoff(compared()),
        lambda: plot_memory({f"{n:,} tokens": estimate_memory_usage(None, n, method="formula") for n in (512, 8192)}),
        lambda: Comparison("How many?", "bytes", 123_456_789.0, 0.0)._draw(),
        lambda: plot_roofline({"card": (1e12, 1e14), "laptop": (50e9, 2e11)}, {"one text": (3.0, 1.2e11)}),
        lambda: plot_layers(["CPU"] * 10 + ["GPU"] * 22, experts=["CPU"] * 30),
        lambda: plot_offload({0: 10.0, 5: 15.0, 10: 40.0}, machine="a GPU"),
    ],
    ids=["bytes", "cache", "loop", "block", "tradeoff", "memory", "guess", "roofline", "layers", "offload"],
)
def test_pictures_are_readable_in_a_notebook(draw) -> None:
    """Nothing is cut off at an edge, and no text is smaller than 9 pixels at a notebook's 560 pixels."""
    from matplotlib.text import Text

    figure = draw().figure
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    drawn = figure.get_tightbbox()
    assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) >= -0.02
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) * 560 / (72 * width) >= 9


def test_plots_leave_pyplot_alone(info) -> None:
    """The plots do not register with pyplot, which would show each figure twice and warn after twenty."""
    for _ in range(25):
        plot_bytes(info)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_plot_tradeoff_draws_every_type() -> None:
    """Left: one point per type, loss against size. Right: one bar per type, largest file first."""
    left, right = plot_tradeoff(compared()).axes
    points = {tuple(float(value[0]) for value in line.get_data()) for line in left.lines}
    assert points == {(mb, kl) for mb, kl, _ in MEASURED.values()}
    assert [bar.get_width() for bar in right.patches] == [1.0, 1.21, 1.16, 1.23, 1.55, 1.42, 1.4]
    assert left.get_yscale() == "symlog"
    assert left.get_ylim()[0] < 0 < 0.3674 < left.get_ylim()[1]


def test_plot_tradeoff_names_axes_units_and_types() -> None:
    """Sizes, losses and speeds have units; every type is named at its point, at its bar and in the alt text."""
    figure = plot_tradeoff(compared())
    left, right = figure.axes
    assert left.get_xlabel() == "file size (MB)"
    assert "nats per token" in left.get_ylabel()
    assert "multiple" in right.get_xlabel()
    assert right.get_ylabel()
    assert (
        {text.get_text() for text in left.texts} == {label.get_text() for label in right.get_yticklabels()} == set(MEASURED)
    )
    for name, (mb, kl, ratio) in MEASURED.items():
        assert f"{name}: {mb} MB, KL divergence {kl:.4f}, {ratio:.2f} times" in Picture(figure).text


def test_plot_tradeoff_marks_the_reference_without_colour() -> None:
    """The reference is a square among circles, and a hatched bar among plain ones."""
    left, right = plot_tradeoff(compared()).axes
    assert [line.get_marker() for line in left.lines] == ["s", *"oooooo"]
    assert [bar.get_hatch() for bar in right.patches] == ["//", *[""] * 6]


def test_plot_tradeoff_names_do_not_overlap() -> None:
    """The names of types with close points do not overlap."""
    close = {**MEASURED, "Q4_1": (91.9, 0.24, 1.3), "IQ4_NL": (91.5, 0.22, 1.3)}
    figure = plot_tradeoff(compared(close))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == len(close)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_plot_tradeoff_draws_a_single_type() -> None:
    """A single type can be drawn, with or without a loss."""
    for only in ({"Q8_0": (144.8, 0.0037, 1.2)}, {"F16": (270.9, 0.0, 1.0)}):
        assert len(plot_tradeoff(compared(only)).axes[0].lines) == 1


def test_plot_generation_shows_the_loop() -> None:
    """The diagram has the prompt's ids and texts, the layers, the candidates and the choice; dollars are no formula."""
    axes = plot_generation([(1, "a$b"), (22, " c$")], n_layers=30, candidates=[(" d", 0.75), ("\n", 0.25)])
    drawn = "\n".join(text.get_text() for text in axes.texts)
    for part in ("prompt", "    22 ␣c", "30 layers", "␣d        75.0 %", "⏎         25.0 %", "chooses\n␣d", "again"):
        assert part in drawn
    assert "30 layers" in Picture(axes).text
    axes.figure.canvas.draw()


def test_plot_cache_growth_marks_the_new_cells() -> None:
    """Each panel has all cells; the hatched ones are new: those of the whole prompt, then one column per token."""
    figure = plot_cache_growth(["a", "b"], ["c", "d"], n_layers=3, n_cells=6)
    hatched = [sum(bar.get_hatch() == "//" for bar in axes.patches) for axes in figure.axes]
    filled = [sum(bar.get_facecolor()[3] > 0 for bar in axes.patches) for axes in figure.axes]
    assert [len(axes.patches) for axes in figure.axes] == [18, 18, 18]
    assert hatched == [2 * 3, 3, 3]
    assert filled == [2 * 3, 3 * 3, 4 * 3]
    assert figure.axes[0].get_ylabel() == "layer"
    assert "3 columns filled, 1 of them new" in Picture(figure).text


def test_plot_q4_0_block_has_every_nibble() -> None:
    """Byte n has weight n in its lower half and weight n + 16 in its upper half, as labkit's decoder says."""
    data = np.random.default_rng(0).integers(0, 256, 18, np.uint8)
    data[:2] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
    axes = plot_q4_0_block(data.tobytes())
    drawn = dict(text.get_text().split("\n") for text in axes.texts if text.get_text().startswith("w"))
    weights = Q4_0.decode(data)
    assert {name: 0.5 * (int(q) - 8) for name, q in drawn.items()} == {f"w{n}": weights[n] for n in range(32)}
    assert "scale, 0.5000" in Picture(axes).text
    with pytest.raises(ArgumentError, match="18 bytes, not 17"):
        plot_q4_0_block(bytes(17))


@pytest.mark.parametrize(
    ("machine", "name", "point"),
    [
        ((17e9, 6.4e9), "one text", (2.8, 9e9)),  # a busy machine, whose ridge is far left
        ((1e12, 1e14), "64 texts: at most 5,787 tokens/s", (89.2, 8.9e13)),
        ((1e13, 1e15), "128 texts: at most 1,234,567 tokens/s", (99.0, 9.9e14)),
    ],
)
def test_plot_roofline_has_room_for_its_words(machine: tuple[float, float], name: str, point: tuple[float, float]) -> None:
    """The words at the ridge do not cross the vertical axis; a point's name is not cut off at the right."""
    axes = plot_roofline({"these settings": machine}, {name: point}, axes=canvas(3.8, left=0.13, bottom_inches=0.6))
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert min(box.x0 for box in boxes) >= axes.bbox.x0
    assert max(box.x1 for box in boxes) <= axes.figure.bbox.x1


def test_plot_roofline_bends_at_the_ridge() -> None:
    """A roof rises with the bandwidth to the ridge and is flat after it; points and roofs are in the alt text."""
    axes = plot_roofline({"card": (1e12, 1e14), "laptop": (50e9, 2e11)}, {"one text": (3.0, 1.2e11)})
    card, laptop, *_ = axes.lines
    for line, ridge, most in ((card, 100.0, 1e14), (laptop, 4.0, 2e11)):
        (left, middle, right), (low, top, end) = line.get_data()
        assert middle == ridge
        assert top == end == most
        assert low / left == pytest.approx(most / ridge)
        assert left < 3.0 < right
    assert "one text: 3.0 operations per byte, 120 billion operations/s, 4 % of the roof of card." in Picture(axes).text
    with pytest.raises(ArgumentError, match="at least one machine"):
        plot_roofline({}, {"one text": (3.0, 1.2e11)})


def test_plot_layers_draws_each_part_on_its_device() -> None:
    """There is a box for the table, each layer, the output and each layer's experts; devices differ in colour and hatch."""
    axes = plot_layers(["CPU", "GPU", "GPU"], experts=["CPU", "other"])
    boxes = {
        (round(bar.get_x() + 0.425), round(bar.get_y())): (bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches
    }
    cpu, gpu, other = boxes[-1, 1], boxes[1, 1], boxes[1, 0]
    assert boxes == {(-1, 1): cpu, (0, 1): cpu, (1, 1): gpu, (2, 1): gpu, (0, 0): cpu, (1, 0): other}
    assert len({colour for colour, _ in (cpu, gpu, other)}) == len({hatch for _, hatch in (cpu, gpu, other)}) == 3
    assert "1 GPU. Output: GPU. Experts of the layers: 0 CPU, 1 other." in Picture(axes).text


def test_plot_experts_fills_the_chosen_ones() -> None:
    """In each layer's row, the experts that a token uses are filled and hatched."""
    axes = plot_experts([[1], [0, 2]], 3)
    assert [bar.get_hatch() == "//" for bar in axes.patches] == [False, True, False, True, False, True]
    assert "layer 1: 0, 2." in Picture(axes).text


def test_plot_offload_predicts_from_the_first_and_the_last() -> None:
    """The line meets the first and the last measurement; in between, times add up."""
    predicted, measured = plot_offload({0: 10.0, 5: 15.0, 10: 40.0}, machine="a GPU").lines
    assert list(measured.get_ydata()) == [10.0, 15.0, 40.0]
    assert [predicted.get_ydata()[n] for n in (0, 5, 10)] == pytest.approx([10.0, 1 / (0.5 / 10 + 0.5 / 40), 40.0])
