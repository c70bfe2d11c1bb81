"""The roofline explorer shows what pass_work counts, and this machine's figures."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import labkit
from labkit.ghost.build import shape_header
from labkit.roofline import pass_work
from labkit.widgets import explore
from labkit.widgets.roofline import DEPTH, MODELS, RooflineExplorer, describe

MIXTURE = "Qwen3-30B-A3B (mixture of experts)"


@pytest.fixture
def explorer() -> Iterator[RooflineExplorer]:
    made = RooflineExplorer(labkit.bundled_model_path())
    yield made
    made.close()


@pytest.fixture(scope="module")
def machine() -> labkit.SpeedPrediction:
    """Time the kernels briefly: the tests are about what the explorer does with the figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labkit.roofline.kernels._SECONDS", 0.005)
        patch.setattr("labkit.roofline.predict._BEYOND_CACHES", 2**20)
        return labkit.predict_speed(labkit.bundled_model_path(), n_threads=1, n_prompt=8)


def move(explorer: RooflineExplorer, **values: object) -> str:
    for name, value in values.items():
        explorer.controls[name].value = value
    assert explorer.wait()
    assert explorer.message == ""
    return explorer.view.sentence


def test_moving_the_controls_shows_the_ceiling(explorer: RooflineExplorer) -> None:
    """The sentence and the table have the numbers of pass_work for the chosen shape, type, texts and machine."""
    sentence = move(explorer, model="Llama-3.1-8B", type="Q8_0", n_parallel=3, bandwidth=100.0, operations=1000.0)
    work = pass_work(shape_header("llama", "8B", "Q8_0"), n_parallel=3, depth=DEPTH)
    assert f"reads {work.n_bytes / 1e9:.2f} GB for 3 tokens" in sentence
    assert f"At most {work.ceiling(100e9, 1000e9):.0f} tokens per second in all" in sentence
    assert sentence.endswith("reading is the limit.")
    rows = {row[0]: row for row in explorer.view.tables[0].rows}
    assert set(rows) == {"1", "2", "3", "4", "8", "16", "32", "64", "128", "256"}
    assert rows["3"][1] == f"{work.n_bytes / 1e9:.2f}"
    assert move(explorer, n_parallel=256).endswith("computing is the limit.")


def test_every_control_changes_the_view(explorer: RooflineExplorer) -> None:
    """A type belongs to a shape: for a file, whose types are given, the menu is disabled."""
    assert explorer.controls["type"].disabled
    seen = {explorer.view.to_html()}
    for name, value in (("model", MIXTURE), ("type", "Q2_K"), ("n_parallel", 2), ("bandwidth", 400.0), ("operations", 20.0)):
        move(explorer, **{name: value})
        seen.add(explorer.view.to_html())
    assert len(seen) == 6
    assert not explorer.controls["type"].disabled
    move(explorer, model="the file")
    assert explorer.controls["type"].disabled


def test_this_machine_stays_in_the_picture(machine: labkit.SpeedPrediction) -> None:
    """Given figures set the sliders; when they move away, the other roof and its ceiling are shown, too."""
    made = explore("roofline", labkit.bundled_model_path(), machine=machine)
    try:
        assert made.controls["bandwidth"].value == pytest.approx(machine.read_bytes_per_second / 1e9)
        assert made.view.picture is not None
        assert "this machine" in str(made.view.picture.get_label())
        assert "On this machine" not in made.view.sentence
        made.controls["bandwidth"].value = 3000.0
        assert made.wait()
        most = pass_work(labkit.bundled_model_path(), depth=DEPTH).ceiling(
            machine.read_bytes_per_second, machine.operations_per_second
        )
        assert f"On this machine: at most {most:.0f}" in made.view.sentence
        assert "these settings" in str(made.view.picture.get_label())
    finally:
        made.close()


def test_measuring_moves_the_sliders(
    explorer: RooflineExplorer, machine: labkit.SpeedPrediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The button sets bandwidth and arithmetic to what predict_speed finds for the chosen file."""
    asked = []
    monkeypatch.setattr("labkit.widgets.roofline.predict_speed", lambda path: asked.append(path) or machine)
    explorer.measure()
    assert explorer.wait()
    assert asked == [labkit.bundled_model_path()]
    assert explorer.controls["operations"].value == pytest.approx(machine.operations_per_second / 1e9)
    assert explorer.controls["bandwidth"].value == pytest.approx(machine.read_bytes_per_second / 1e9)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_shape(name: str) -> None:
    """Each name of the menu is that of a shape, with the type's bits per weight."""
    header = shape_header(*MODELS[name], "Q8_0")
    assert name.startswith(header.source)
    assert 8 * header.weights_bytes / header.parameter_count == pytest.approx(8.5, abs=0.05)


def test_description_compares_one_text_with_many() -> None:
    """With several texts, the speed of each is stated, too."""
    header = shape_header("llama", "8B", "Q4_K_M")
    one, many = (pass_work(header, n_parallel=n) for n in (1, 16))
    assert "for each" not in describe(one, (50e9, 1e12), "8B", None)
    assert "9.7 for each" in describe(many, (50e9, 1e15), "8B", None)


def test_a_missing_file_is_one_line_and_closing_leaves_nothing(tmp_path: Path) -> None:
    """Explore shows the error, a shape works nevertheless, and after close no thread is left."""
    made = explore("roofline", tmp_path / "no.gguf")
    assert "no.gguf" in made.message
    made.controls["model"].value = "Llama-3.2-1B"
    assert made.wait()
    assert made.view.sentence.startswith("Llama-3.2-1B as Q4_K_M, one text")
    made.close()
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "labkit-explorer"]
    with pytest.raises(labkit.ArgumentTypeError, match="predict_speed"):
        explore("roofline", machine=3)
