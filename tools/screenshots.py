"""Take a screenshot of each explorer in JupyterLab for the README: docs/pictures/explorer-NAME.png.

Needs Chromium (``apt-get install chromium``, or its path in the environment variable CHROMIUM)::

    uv run tools/screenshots.py [NAME ...]

Without names, of all. Those that measure ("threads", "serving", "playground") need an otherwise idle machine.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from labkit.widgets import EXPLORERS  # noqa: E402
from tests.browser.jupyter import ExplorerPage, find_chromium, open_browser, open_lab  # noqa: E402

TITLES = {
    "playground": "Playground",
    "sampling": "Sampling explorer",
    "serving": "Serving explorer",
    "threads": "Threads explorer",
    "gpu_layers": "GPU layers explorer",
    "memory": "Memory explorer",
    "gguf": "GGUF explorer",
    "quantization": "Quantization explorer",
    "roofline": "Roofline explorer",
    "tokenizer": "Tokenizer explorer",
}
OPTIONS = {
    "gguf": ", show='tensors'",
    "sampling": ", prompt='The sky is'",
    "tokenizer": ", text='Hello, Ελλάδα! Llamas are 100 % tokenized.'",
}


def main() -> int:
    """Open each explorer in a separate notebook, prepare it, and take its screenshot."""
    names = sys.argv[1:] or list(EXPLORERS)
    if unknown := set(names) - set(EXPLORERS):
        print(f"no explorer {', '.join(sorted(unknown))}: choose from {', '.join(EXPLORERS)}", file=sys.stderr)
        return 1
    executable = find_chromium()
    if executable is None:
        print("needs chromium: install it, or set the environment variable CHROMIUM to its path", file=sys.stderr)
        return 1
    target = ROOT / "docs" / "pictures"
    target.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_browser(executable) as browser,
        open_lab(browser, Path(folder)) as lab,
    ):
        for name in names:
            code = f"labkit.explore({name!r}, model{OPTIONS.get(name, '')})"
            with lab.notebook("import labkit\nmodel = labkit.load_model(n_ctx=2048)", code, width=1000) as notebook:
                explorer = notebook.explorer(TITLES[name])
                prepare(name, explorer)
                path = target / f"explorer-{name.replace('_', '-')}.png"
                explorer.box.screenshot(path=str(path))
                print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")
    return 0


def prepare(name: str, explorer: ExplorerPage) -> None:
    """Operate the explorer by keyboard, so that the screenshot has something to show."""
    if name == "playground":
        explorer.push("Generate")
        explorer.wait_for_text("done")
    elif name == "sampling":
        explorer.press(explorer.slider("Temperature"), "ArrowRight", 8)
    elif name == "serving":
        explorer.push("Measure with this many slots")
        explorer.wait_for_text("done", timeout_s=120)
    elif name == "threads":
        explorer.push("Measure all")
        explorer.wait_for_text("done", timeout_s=120)
    elif name == "gpu_layers":
        explorer.push("Start a device on this machine")
        explorer.wait_for_text("a device runs at 127.0.0.1")
        explorer.push("Load with these settings")
        explorer.wait_for_text("Loaded:", timeout_s=60)
    elif name == "roofline":
        explorer.press(explorer.box.get_by_label("Model", exact=True), "ArrowDown", 3)
        explorer.press(explorer.slider("Texts at once"), "ArrowRight", 7)
    elif name == "quantization":
        explorer.press(explorer.slider("First weight shown"), "ArrowRight", 2)
    explorer.page.wait_for_timeout(1500)


if __name__ == "__main__":
    sys.exit(main())
