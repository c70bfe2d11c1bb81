"""Figures draw the record's numbers, name their units, and say in words what they show."""

import html.parser
import sys

import pytest

from labkit import get_model_info
from labkit.plots import Picture, plot_bytes


@pytest.fixture(scope="module")
def info():
    return get_model_info()


def test_plot_bytes_draws_the_whole_file(info) -> None:
    """The bars add up to the file, a bar for each tensor type and the header's last."""
    widths = [bar.get_width() for bar in plot_bytes(info).patches]
    assert len(widths) == len(info.tensor_types) + 1
    assert sum(widths) * 2**20 == pytest.approx(info.file_size_bytes)
    assert widths[-1] * 2**20 == pytest.approx(info.file_size_bytes - info.weights_bytes)


def test_plot_bytes_names_axes_units_and_parts(info) -> None:
    """Both axes are named, the sizes with their unit; every bar has its name and its share."""
    axes = plot_bytes(info)
    assert axes.get_xlabel() == "size (MiB)"
    assert axes.get_ylabel()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["Q4_1, 210 tensors", "Q8_0, 1 tensor", "F32, 61 tensors", "header"]
    assert [text.get_text().split(", ")[1] for text in axes.texts] == ["67.5%", "30.6%", "0.1%", "1.8%"]


def test_plot_bytes_tells_bars_apart_without_colour(info) -> None:
    """The header's bar has a hatch, so a grey print shows the difference."""
    hatches = [bar.get_hatch() for bar in plot_bytes(info).patches]
    assert hatches == ["", "", "", "//"]


def test_plot_bytes_draws_into_given_axes(info) -> None:
    """Figures of several panels are possible."""
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert plot_bytes(info, axes=right) is right
    assert not left.patches


def test_picture_shows_its_text(info) -> None:
    """The image in a notebook carries what it says, every part of it; so does the plain form."""
    picture = Picture(plot_bytes(info))
    found = {}
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.update(attrs)  # type: ignore[method-assign]
    parser.feed(picture._repr_html_())
    assert found["src"].startswith("data:image/png;base64,")
    assert found["alt"] == picture.text == repr(picture)
    for name in (*info.tensor_types, "header", "MiB"):
        assert name in picture.text


def test_picture_escapes_what_a_file_says(info) -> None:
    """A type's name comes from a table, but a text is escaped whatever it says."""
    axes = plot_bytes(info)
    axes.set_label('"><script>alert(1)</script>')
    assert "<script>" not in Picture(axes)._repr_html_()


def test_plots_leave_pyplot_alone(info) -> None:
    """Nothing is kept by pyplot, which would show each figure twice and warn after twenty."""
    for _ in range(25):
        plot_bytes(info)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
