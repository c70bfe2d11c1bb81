"""The GPU layers explorer estimates memory by number of layers, and compares it with a real load."""

import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

import labkit
from labkit.model_info import read_model_header
from labkit.widgets import explore, gpu_layers
from labkit.widgets.gpu_layers import GPULayersExplorer, describe, load_and_measure
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.what_fits import DEVICE, RAM, by_place, estimate_from_header, most_gpu_layers, n_layers, reported

MIB = 2**20
CUDA_LOG = """\
load_tensors:   CPU_Mapped model buffer size =   100.00 MiB
load_tensors:   CPU_REPACK model buffer size =    10.00 MiB
load_tensors:        CUDA0 model buffer size =   300.00 MiB
load_tensors:        CUDA1 model buffer size =   200.00 MiB
llama_context:  CUDA_Host  output buffer size =     0.50 MiB
llama_kv_cache:      CUDA0 KV buffer size =    45.00 MiB
llama_kv_cache: size =   45.00 MiB (   512 cells,  30 layers,  1/1 seqs), K (f16):   22.50 MiB, V (f16):   22.50 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =     2.00 MiB
sched_reserve:  CUDA_Host compute buffer size =     7.00 MiB
sched_reserve:      CUDA0 compute buffer size =    90.00 MiB
"""
no_gpu = pytest.mark.skipif(labkit.engine_build().has_gpu, reason="a GPU would be used instead of a second process")
needs_rpc = pytest.mark.skipif(not labkit.engine_build().has_rpc, reason="this llama.cpp has no RPC")


@pytest.fixture(scope="module")
def header() -> labkit.gguf_file.Header:
    return read_model_header(labkit.bundled_model_path())


@pytest.fixture
def explorer() -> Iterator[GPULayersExplorer]:
    running = set(psutil.Process().children())
    made = GPULayersExplorer(labkit.bundled_model_path(), n_ctx=512, device_mib=96)
    yield made
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "labkit-explorer"]
    assert set(psutil.Process().children()) <= running


def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_most_layers_equals_an_exhaustive_search(header: labkit.gguf_file.Header) -> None:
    """The bisection finds the same number as an exhaustive search, from no layer to all layers."""
    sizes = [estimate_from_header(header, 512, n_gpu_layers=count).gpu_bytes for count in range(n_layers(header) + 1)]
    for capacity in (1, 60, 80, 96, 110, 1000):
        expected = max(count for count, size in enumerate(sizes) if size <= capacity * MIB)
        assert most_gpu_layers(header, 512, capacity * MIB) == expected
    assert n_layers(header) == 31


def test_reported_reads_the_engines_log() -> None:
    """The buffers of all devices are added; host memory that a driver pins is RAM; other lines do not count."""
    sizes = {place: {name: size / MIB for name, size in parts.items()} for place, parts in reported(CUDA_LOG).items()}
    assert sizes == {
        RAM: {"weights": 100, "repacked weights": 10, "output": 0.5, "compute": 7},
        DEVICE: {"weights": 500, "cache": 45, "state": 2, "compute": 90},
    }


def test_description_names_where_it_does_not_fit() -> None:
    """Each place without enough memory is named."""
    sizes = {RAM: {"weights": 300 * MIB}, DEVICE: {"weights": 100 * MIB, "cache": 10 * MIB}}
    assert ": fits. " in describe(sizes, {RAM: 400 * MIB, DEVICE: 110 * MIB}, 5, 31, 5)
    assert ": does not fit on the device. " in describe(sizes, {RAM: 400 * MIB, DEVICE: 109 * MIB}, 5, 31, 4)
    assert ": does not fit in RAM and on the device. " in describe(sizes, {RAM: MIB, DEVICE: MIB}, 5, 31, 0)


def test_a_cancelled_load_ends_at_once() -> None:
    """A cancelled ticket ends the load, which returns None."""
    ticket = Ticket()
    ticket.cancel()
    assert load_and_measure(labkit.bundled_model_path(), 256, 0, None, lambda *_: None, ticket) is None


# -- the explorer ------------------------------------------------------------------------------------------------------


def test_moving_the_slider_shows_both_places(explorer: GPULayersExplorer) -> None:
    """The table and the sentence show the estimate for that number of layers."""
    for layers in (0, 31, 20):
        explorer.controls["n_gpu_layers"].value = layers
        assert explorer.wait()
        sizes = by_place(labkit.estimate_memory_usage(n_ctx=512, n_gpu_layers=layers, method="formula"))
        rows = {row[0]: row[1:] for row in explorer.view.tables[0].rows}
        for column, place in enumerate((RAM, DEVICE)):
            assert rows["total"][column] == f"{sum(sizes.get(place, {}).values()) / MIB:,.1f}"
        assert explorer.view.sentence.startswith(f"{layers} of 31 layers on the device")
    most = most_gpu_layers(read_model_header(), 512, 96 * MIB)
    assert f"At most {most} of 31 layers fit on the device." in explorer.view.sentence


@no_gpu
def test_loading_without_a_device_offers_one(explorer: GPULayersExplorer) -> None:
    """Without a device, GPU layers are an error in one line; with 0 layers the model is loaded on the CPU."""
    explorer.load()
    assert explorer.wait()
    assert "Start a device on this machine" in explorer.message
    explorer.controls["n_gpu_layers"].value = 0
    explorer.load()
    assert explorer.wait()
    assert explorer.message == "loaded, measured and closed"
    assert DEVICE not in explorer.loaded[0, 512].sizes


@no_gpu
@needs_rpc
def test_a_real_load_matches_the_estimate(explorer: GPULayersExplorer) -> None:
    """The device's weights, cache and compute buffer are within 1 % of the formula; another slider value hides them."""
    explorer.start_device()
    assert explorer.wait()
    assert "a device runs at 127.0.0.1:" in explorer.message
    process = psutil.Process(explorer.device.pid)
    explorer.controls["n_gpu_layers"].value = 15
    explorer.load()
    assert explorer.wait()
    assert explorer.message == "loaded, measured and closed"
    sizes = by_place(labkit.estimate_memory_usage(n_ctx=512, n_gpu_layers=15, method="formula"))
    found = explorer.loaded[15, 512]
    for part, size in sizes[DEVICE].items():
        assert found.sizes[DEVICE][part] == pytest.approx(size, rel=0.01)
    assert "tokens/s" in explorer.view.sentence
    assert "device reported" in explorer.view.picture.get_label()
    assert [table.title for table in explorer.view.tables] == ["Memory by part and place", "Loads so far"]
    explorer.controls["n_gpu_layers"].value = 16
    assert explorer.wait()
    assert "reported" not in explorer.view.picture.get_label()
    explorer.close()
    assert not process.is_running()


@no_gpu
def test_stop_ends_a_load_within_a_second(explorer: GPULayersExplorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop ends a long generation; a slider's move before does not, and its view is shown afterwards."""
    monkeypatch.setattr(gpu_layers, "N_TOKENS", 400)
    explorer.controls["n_gpu_layers"].value = 0
    explorer.load()
    until(lambda: explorer.message == "generating")
    explorer.controls["n_gpu_layers"].value = 3
    assert not explorer.wait(0.2)
    start = time.perf_counter()
    assert explorer.stop()
    assert explorer.wait()
    assert time.perf_counter() - start < 1.5  # includes drawing a picture
    assert (explorer.message, explorer.loaded) == ("stopped", {})
    assert explorer.view.sentence.startswith("3 of 31")


@no_gpu
@needs_rpc
def test_closing_in_the_middle_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close ends the device's process, the model's thread and the explorer's thread."""
    monkeypatch.setattr(gpu_layers, "N_TOKENS", 400)
    before, running = set(threading.enumerate()), set(psutil.Process().children())
    made = explore("gpu_layers", n_ctx=512)
    made.start_device()
    assert made.wait()
    made.load()
    until(lambda: made.message == "generating")
    made.close()
    until(lambda: set(threading.enumerate()) <= before)
    assert set(psutil.Process().children()) <= running
