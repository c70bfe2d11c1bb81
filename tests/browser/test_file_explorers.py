"""The explorers of files, memory and devices in JupyterLab, by keyboard: each says what its twin in this process says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import labkit

if TYPE_CHECKING:
    from tests.browser.jupyter import ExplorerPage, Lab

LOAD = "import labkit\npath = labkit.bundled_model_path()"


class Twin:
    """The same explorer here, moved as the one in the browser is: their sentences are compared after each move."""

    def __init__(self, page: ExplorerPage, explorer: Any) -> None:
        self.page, self.explorer = page, explorer

    def agree(self) -> None:
        """Wait until the browser shows what is shown here."""
        assert self.explorer.wait()
        self.page.wait_for_text(self.explorer.shown.sentence)

    def slide(self, label: str, name: str, key: str, times: int = 1) -> None:
        """Move a slider by an arrow key, here and there."""
        control = self.explorer.controls[name]
        self.page.press(self.page.slider(label), key, times)
        control.value = control.value + {"ArrowRight": times, "ArrowLeft": -times}[key] * control.step
        self.agree()

    def choose(self, label: str, name: str, times: int = 1) -> None:
        """Go down in a menu, here and there."""
        control = self.explorer.controls[name]
        self.page.press(self.page.box.get_by_label(label, exact=True), "ArrowDown", times)
        control.index = control.index + times
        self.agree()

    def write(self, label: str, name: str, value: Any) -> None:
        """Type into a box, here and there."""
        box = self.page.box.get_by_label(label, exact=True)
        box.focus()
        self.page.page.keyboard.press("Control+a")
        self.page.page.keyboard.type(str(value))
        self.page.page.keyboard.press("Tab")
        self.explorer.controls[name].value = value
        self.agree()


def test_memory_explorer_by_keyboard(lab: Lab) -> None:
    """Context, cache types, batches, sequences, mmap and RAM change the verdict as the estimate foretells."""
    with lab.notebook(LOAD, "labkit.explore('memory', path)") as notebook:
        here = labkit.explore("memory", labkit.bundled_model_path())
        twin = Twin(notebook.explorer("Memory explorer"), here)
        twin.page.box.get_by_label("RAM to reckon with (MiB)").wait_for()
        twin.write("RAM to reckon with (MiB)", "ram_mib", 400)
        twin.slide("Context (tokens)", "n_ctx", "ArrowRight", 4)
        twin.choose("Flash attention", "flash_attn")
        twin.choose("Type of the cache's keys", "type_k")
        twin.choose("Type of the cache's values", "type_v")
        twin.slide("Sequences at once", "n_seq", "ArrowRight")
        twin.slide("Tokens a call, n_batch", "n_batch", "ArrowLeft")
        twin.slide("Tokens a computation, n_ubatch", "n_ubatch", "ArrowLeft", 4)
        box = twin.page.box.get_by_role("checkbox")
        twin.page.press(box, "Space")
        here.controls["use_mmap"].value = not here.controls["use_mmap"].value
        twin.agree()
        twin.write("RAM to reckon with (MiB)", "ram_mib", 150)
        assert "Does not fit" in here.shown.sentence
        assert "Bar chart" in str(twin.page.box.locator("img").first.get_attribute("alt"))
        here.close()
        assert notebook.errors == []


def test_gpu_layers_explorer_really_loads(lab: Lab) -> None:
    """A device is started on loopback, the model loaded on it by the press of a button, and the engine's report shown."""
    with lab.notebook(LOAD, "labkit.explore('gpu_layers', path, device_mib=200)") as notebook:
        explorer = notebook.explorer("GPU layers explorer")
        explorer.push("Load it so")
        explorer.wait_for_text("there is no GPU here")
        explorer.push("Start a device on this machine")
        explorer.wait_for_text("a device runs at 127.0.0.1")
        explorer.press(explorer.slider("GPU layers"), "ArrowLeft", 5)
        explorer.wait_for_text("10 of 31 layers on the device")
        explorer.push("Load it so")
        explorer.wait_for_text("Loaded so:", timeout_s=60)
        assert "reported on the device" in explorer.sentence
        explorer.press(explorer.slider("Context (tokens)"), "ArrowRight")
        explorer.push("Load it so")
        explorer.push("Stop")
        explorer.wait_for_text(re.compile("stopped|loaded, and closed again"))
        explorer.press(explorer.slider("GPU layers"), "Home")
        explorer.wait_for_text("0 of 31 layers on the device")
        assert notebook.errors == []


def test_gguf_explorer_by_keyboard(lab: Lab) -> None:
    """All four views are reached by keyboard; search and block change what is shown as here."""
    with lab.notebook(LOAD, "labkit.explore('gguf', path)") as notebook:
        here = labkit.explore("gguf", labkit.bundled_model_path())
        twin = Twin(notebook.explorer("GGUF explorer"), here)
        twin.agree()
        twin.write("Search", "search", "head_count")
        twin.choose("Show", "show")
        twin.write("Search", "search", "ffn")
        assert "reemap" in str(twin.page.box.locator("img").first.get_attribute("alt"))
        twin.choose("Group tensors by", "group")
        twin.choose("Show", "show")
        twin.choose("Show", "show")
        twin.choose("Tensor", "tensor")
        twin.slide("Block", "block", "ArrowRight", 3)
        here.close()
        assert notebook.errors == []


def test_quantization_explorer_by_keyboard(lab: Lab) -> None:
    """Tensor, type and place change the errors as here."""
    with lab.notebook(LOAD, "labkit.explore('quantization', path)") as notebook:
        here = labkit.explore("quantization", labkit.bundled_model_path())
        twin = Twin(notebook.explorer("Quantization explorer"), here)
        twin.agree()
        twin.choose("Type", "type")
        twin.choose("Tensor", "tensor")
        twin.slide("Weights shown, from number", "first", "ArrowRight")
        assert twin.page.box.locator("img").first.get_attribute("alt")
        here.close()
        assert notebook.errors == []
