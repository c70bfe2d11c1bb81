"""The memory explorer shows the result of estimate_memory_usage, and what would fit."""

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import labkit
from labkit.model_info import read_model_header
from labkit.plots.memory import plot_fit
from labkit.widgets import explore
from labkit.widgets.memory import MemoryExplorer, context_slider, describe
from labkit.widgets.parts.what_fits import RAM, by_place, estimate_from_header, longest_context, trained_context

MIB = 2**20


@pytest.fixture(scope="module")
def header() -> labkit.gguf_file.Header:
    return read_model_header(labkit.bundled_model_path())


@pytest.fixture
def explorer() -> Iterator[MemoryExplorer]:
    made = MemoryExplorer(labkit.bundled_model_path())
    yield made
    made.close()


def move(explorer: MemoryExplorer, **values: object) -> str:
    for name, value in values.items():
        explorer.controls[name].value = value
    assert explorer.wait()
    return explorer.view.sentence


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"type_k": "q8_0", "type_v": "q4_0"}, {"n_seq": 3, "use_mmap": False}])
def test_estimate_from_header_is_the_formula(header: labkit.gguf_file.Header, settings: dict[str, object]) -> None:
    """From a header, the parts are those of estimate_memory_usage."""
    found = estimate_from_header(header, 1024, **settings)
    expected = labkit.estimate_memory_usage(labkit.bundled_model_path(), 1024, method="formula", **settings)
    assert found.parts == expected.parts
    assert found.method == "formula"


def test_longest_context_is_the_longest(header: labkit.gguf_file.Header) -> None:
    """It fits, 256 tokens more do not; it is 0 with too little RAM, and the trained context with plenty."""
    room = 260 * MIB
    longest = longest_context(header, room)
    assert estimate_from_header(header, longest, ram_bytes=room).fits
    assert not estimate_from_header(header, longest + 256, ram_bytes=room).fits
    assert longest_context(header, MIB) == 0
    assert longest_context(header, 2**40) == trained_context(header) == 8192


def test_description_states_what_fits(header: labkit.gguf_file.Header) -> None:
    """There are three sentences: it fits, a shorter context fits, no context fits; rounding is mentioned."""
    fits = estimate_from_header(header, 2048, ram_bytes=2**33)
    assert describe(fits, 2048).startswith(f"Fits: needs {fits.total_bytes / MIB:.1f} MiB of RAM")
    small = estimate_from_header(header, 2000, ram_bytes=100 * MIB)
    assert "not fit" in describe(small, 2000, 1024)
    assert "the longest context that fits is 1,024 tokens" in describe(small, 2000, 1024)
    assert "not even a context of 256 tokens" in describe(small, 2000, 0)
    assert "2,000 tokens is rounded up to 2,048" in describe(small, 2000, 0)


def test_context_slider_has_few_steps(header: labkit.gguf_file.Header) -> None:
    """It ends at the trained context, or at a longer requested one; 0 is the trained one."""
    assert (context_slider(header, 512).value, context_slider(header, 512).max) == (512, 8192)
    assert context_slider(header, 10_000).max == 10_000
    assert context_slider(header, 0).value == 8192
    with pytest.raises(labkit.ArgumentTypeError, match="n_ctx"):
        context_slider(header, "512")  # type: ignore[arg-type]


def test_picture_has_each_part_and_the_capacity(header: labkit.gguf_file.Header) -> None:
    """The alt text has every part; a capacity near the bar is a line, a far one only text."""
    estimate = estimate_from_header(header, 2048)
    sizes = by_place(estimate)
    near, far = plot_fit(sizes, {RAM: 100 * MIB}), plot_fit(sizes, {RAM: 2**35})
    assert "weights 92.1, cache 45.0" in near.get_label()
    assert f"{estimate.total_bytes / MIB:.1f} MiB of 32.00 GiB" in far.get_label()
    assert (len(near.lines), len(far.lines)) == (1, 0)


# -- the explorer ------------------------------------------------------------------------------------------------------


def test_moving_the_controls_shows_the_estimate(explorer: MemoryExplorer) -> None:
    """The table has the parts of the estimate for the same settings."""
    sentence = move(explorer, n_ctx=4096, type_k="q8_0", type_v="q8_0", n_ubatch=128, use_mmap=False)
    expected = labkit.estimate_memory_usage(
        labkit.bundled_model_path(), 4096, type_k="q8_0", type_v="q8_0", n_ubatch=128, use_mmap=False, method="formula"
    )
    rows = {row[0]: row[1] for row in explorer.view.tables[0].rows}
    assert rows["cache"] == f"{expected.kv_cache_bytes / MIB:,.1f}"
    assert rows["total"] == f"{expected.total_bytes / MIB:,.1f}"
    assert sentence.startswith("Fits: needs ")
    assert explorer.message == ""


def test_too_little_ram_names_the_longest_context(explorer: MemoryExplorer) -> None:
    """The verdict is for the RAM in the box."""
    sentence = move(explorer, ram_mib=260, n_ctx=8192)
    longest = longest_context(read_model_header(labkit.bundled_model_path()), 260 * MIB)
    assert sentence.startswith("Does not fit")
    assert f"the longest context that fits is {longest:,} tokens" in sentence
    assert move(explorer, n_ctx=longest).startswith("Fits")


def test_an_impossible_combination_is_one_line(explorer: MemoryExplorer) -> None:
    """A quantized V cache without flash attention shows the library's error, and the explorer continues."""
    before = explorer.view.sentence
    assert move(explorer, type_v="q8_0", flash_attn=False) == before
    assert explorer.message.startswith("a quantized V cache (type_v) needs flash attention")
    assert move(explorer, flash_attn=True) != before
    assert explorer.message == ""


def test_a_control_starts_no_process(explorer: MemoryExplorer) -> None:
    """Each step computes formulas, without a child process."""
    running = set(psutil.Process().children())
    for n_ctx in range(512, 2560, 256):
        move(explorer, n_ctx=n_ctx)
    assert set(psutil.Process().children()) <= running


def test_a_missing_file_is_one_line_and_closing_leaves_nothing(tmp_path: Path) -> None:
    """Explore opens it anyway and shows the error; after close no thread is left."""
    made = explore("memory", tmp_path / "no.gguf")
    assert "no.gguf" in made.message
    made.controls["n_ctx"].value = 4096
    made.close()
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "labkit-explorer"]
