"""The explorers of files, memory and devices in JupyterLab, by keyboard: each agrees with a twin in this process."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import labkit

if TYPE_CHECKING:
    from tests.browser.jupyter import ExplorerPage, Lab

LOAD = "import labkit\npath = labkit.bundled_model_path()"


class Twin:
    """The same explorer in this process, moved like the one in the browser; their sentences are compared after each move."""

    def __init__(self, page: ExplorerPage, explorer: Any) -> None:
        self.page, self.explorer = page, explorer

    def agree(self) -> None:
        """Wait until the browser shows this explorer's sentence."""
        assert self.explorer.wait()
        self.page.wait_for_text(self.explorer.view.sentence)

    def slide(self, label: str, name: str, key: str, times: int = 1) -> None:
        """Move a slider by an arrow key, in both."""
        control = self.explorer.controls[name]
        self.page.press(self.page.slider(label), key, times)
        control.value = control.value + {"ArrowRight": times, "ArrowLeft": -times}[key] * control.step
        self.agree()

    def choose(self, label: str, name: str, times: int = 1) -> None:
        """Go down in a menu, in both."""
        control = self.explorer.controls[name]
        self.page.press(self.page.box.get_by_label(label, exact=True), "ArrowDown", times)
        control.index = control.index + times
        self.agree()

    def write(self, label: str, name: str, value: Any) -> None:
        """Type into a box, in both."""
        box = self.page.box.get_by_label(label, exact=True)
        box.focus()
        self.page.page.keyboard.press("Control+a")
        self.page.page.keyboard.type(str(value))
        self.page.page.keyboard.press("Tab")
        self.explorer.controls[name].value = value
        self.agree()


def test_memory_explorer_by_keyboard(lab: Lab) -> None:
    """Context, cache types, batch sizes, sequences, mmap and RAM change the sentence as in the twin."""
    with lab.notebook(LOAD, "labkit.explore('memory', path)") as notebook:
        here = labkit.explore("memory", labkit.bundled_model_path())
        twin = Twin(notebook.explorer("Memory explorer"), here)
        twin.page.box.get_by_label("RAM available (MiB)").wait_for()
        twin.write("RAM available (MiB)", "ram_mib", 400)
        twin.slide("Context (tokens)", "n_ctx", "ArrowRight", 4)
        twin.choose("Flash attention", "flash_attn")
        twin.choose("K cache type", "type_k")
        twin.choose("V cache type", "type_v")
        twin.slide("Parallel sequences", "n_seq", "ArrowRight")
        twin.slide("Batch size (n_batch)", "n_batch", "ArrowLeft")
        twin.slide("Micro-batch size (n_ubatch)", "n_ubatch", "ArrowLeft", 4)
        box = twin.page.box.get_by_role("checkbox")
        twin.page.press(box, "Space")
        here.controls["use_mmap"].value = not here.controls["use_mmap"].value
        twin.agree()
        twin.write("RAM available (MiB)", "ram_mib", 150)
        assert "Does not fit" in here.view.sentence
        assert "Bar chart" in str(twin.page.box.locator("img").first.get_attribute("alt"))
        here.close()
        assert notebook.errors == []


def test_roofline_explorer_by_keyboard(lab: Lab) -> None:
    """Model, type, texts, bandwidth and arithmetic change the sentence as in the twin; the button measures this machine."""
    with lab.notebook(LOAD, "labkit.explore('roofline', path)") as notebook:
        here = labkit.explore("roofline", labkit.bundled_model_path())
        twin = Twin(notebook.explorer("Roofline explorer"), here)
        twin.agree()
        twin.choose("Model", "model", 3)
        twin.choose("Quantization (of a shape)", "type")
        twin.slide("Texts at once", "n_parallel", "ArrowRight", 3)
        for label, name in (("Bandwidth (GB/s)", "bandwidth"), ("Arithmetic (billion operations/s)", "operations")):
            twin.page.press(twin.page.slider(label), "ArrowLeft", 2)
            here.controls[name].value /= 10**0.1
            twin.agree()
        assert "Roofline." in str(twin.page.box.locator("img").first.get_attribute("alt"))
        twin.page.push("Measure this machine")
        twin.page.wait_for_text("measuring: reading memory")
        twin.page.box.get_by_text("measuring: reading memory").wait_for(state="detached", timeout=60_000)
        assert here.view.sentence != twin.page.sentence
        here.close()
        assert notebook.errors == []


def test_gpu_layers_explorer_really_loads(lab: Lab) -> None:
    """Buttons start a device on loopback and load the model on it; the engine's report is shown."""
    with lab.notebook(LOAD, "labkit.explore('gpu_layers', path, device_mib=200)") as notebook:
        explorer = notebook.explorer("GPU layers explorer")
        explorer.push("Load with these settings")
        explorer.wait_for_text("this machine has no GPU")
        explorer.push("Start a device on this machine")
        explorer.wait_for_text("a device runs at 127.0.0.1")
        explorer.press(explorer.slider("GPU layers"), "ArrowLeft", 5)
        explorer.wait_for_text("10 of 31 layers on the device")
        explorer.push("Load with these settings")
        explorer.wait_for_text("Loaded:", timeout_s=60)
        assert "reported on the device" in explorer.sentence
        explorer.press(explorer.slider("Context (tokens)"), "ArrowRight")
        explorer.push("Load with these settings")
        explorer.push("Stop")
        explorer.wait_for_text(re.compile("stopped|loaded, measured and closed"))
        explorer.press(explorer.slider("GPU layers"), "Home")
        explorer.wait_for_text("0 of 31 layers on the device")
        assert notebook.errors == []


def test_gguf_explorer_by_keyboard(lab: Lab) -> None:
    """All four views can be reached by keyboard; search and block change them as in the twin."""
    with lab.notebook(LOAD, "labkit.explore('gguf', path)") as notebook:
        here = labkit.explore("gguf", labkit.bundled_model_path())
        twin = Twin(notebook.explorer("GGUF explorer"), here)
        twin.agree()
        twin.write("Search", "search", "head_count")
        twin.choose("Show", "show")
        twin.write("Search", "search", "ffn")
        assert "Bar chart of" in str(twin.page.box.locator("img").first.get_attribute("alt"))
        twin.choose("Group tensors by", "group")
        twin.choose("Show", "show")
        twin.choose("Show", "show")
        twin.choose("Tensor", "tensor")
        twin.slide("Block", "block", "ArrowRight", 3)
        here.close()
        assert notebook.errors == []


def test_quantization_explorer_by_keyboard(lab: Lab) -> None:
    """Tensor, type and position change the errors as in the twin."""
    with lab.notebook(LOAD, "labkit.explore('quantization', path)") as notebook:
        here = labkit.explore("quantization", labkit.bundled_model_path())
        twin = Twin(notebook.explorer("Quantization explorer"), here)
        twin.agree()
        twin.choose("Type", "type")
        twin.choose("Tensor", "tensor")
        twin.slide("First weight shown", "first", "ArrowRight")
        assert twin.page.box.locator("img").first.get_attribute("alt")
        here.close()
        assert notebook.errors == []
