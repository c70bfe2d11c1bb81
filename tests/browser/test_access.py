"""Accessibility of the explorers: screen readers, narrow screens, and a page without a notebook."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from PIL import Image

from labkit.models import bundled_model_path
from labkit.widgets import EXPLORERS
from tests.browser.jupyter import START_S, ExplorerPage, free_port, server, violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.jupyter import Lab

LOAD = "import labkit\nmodel = labkit.load_model(n_ctx=512)"
GUESS = "from labkit.course.predict import predict\npredict('How fast is it?', unit='tokens/s')"
CONTRASTS = """() => {
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0.05);
  const page = parse(getComputedStyle(document.querySelector(".jp-Notebook")).backgroundColor);
  const over = ([r, g, b, a]) => [r, g, b].map((v, place) => a * v + (1 - a) * page[place]);
  const of = (selector, property) => [...document.querySelectorAll(selector)].map((one) => {
    const pair = [light(over(parse(getComputedStyle(one)[property]))), light(page)].sort((a, b) => a - b);
    return [selector, pair[1] / pair[0]];
  });
  const field = ":is(.labkit-explorer, .labkit-guess) :is(input[type=text], select, textarea)";
  const border = "borderTopColor";
  return [...of(".noUi-connects", "backgroundColor"), ...of(".noUi-handle", border), ...of(field, border)];
}"""
OVERFLOW = (
    "() => [...document.querySelectorAll('.labkit-explorer')].map("
    "(box) => [box.querySelector('strong').innerText, box.scrollWidth - box.clientWidth, box.clientWidth])"
)


def test_no_explorer_has_a_serious_violation(lab: Lab) -> None:
    """axe-core finds no serious violation in any explorer, light or dark; each fits a window of 620 pixels.

    The track of a slider and the border of a field have a contrast of 3:1; a picture is dark in the dark theme.
    """
    cells = [GUESS, *(f"labkit.explore({name!r}, model)" for name in EXPLORERS)]
    with lab.notebook(LOAD, *cells) as notebook:
        page = notebook.page
        page.wait_for_function(
            "(count) => document.querySelectorAll('.labkit-explorer').length === count", arg=len(EXPLORERS)
        )
        page.wait_for_function("() => [...document.querySelectorAll('.noUi-handle')].every((one) => one.ariaLabel)")
        page.evaluate("() => document.querySelectorAll('.labkit-explorer details').forEach((one) => { one.open = true; })")
        for theme in ("Dark", "Light"):  # light remains, for the other tests
            page.evaluate(
                "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", f"JupyterLab {theme}"
            )
            page.wait_for_function(
                "(light) => document.body.dataset.jpThemeLight === light", arg=str(theme == "Light").lower()
            )
            assert violations(page, ".labkit-explorer") == []
            assert violations(page, ".labkit-guess") == []
            contrasts = page.evaluate(CONTRASTS)
            assert len({selector for selector, _ in contrasts}) == 3
            assert [row for row in contrasts if row[1] < 3] == []
            shot = page.locator(".labkit-explorer img").first.screenshot()
            assert (np.mean(Image.open(io.BytesIO(shot)).convert("L")) > 128) == (theme == "Light")
        page.set_viewport_size({"width": 620, "height": 6000})
        assert [row for row in page.evaluate(OVERFLOW) if row[1] > 1] == []
        assert notebook.errors == []


def test_explore_opens_a_page_that_fits_a_narrow_screen(browser: Browser, tmp_path: Path) -> None:
    """`labkit explore` serves all explorers without a notebook; they fit 320 pixels, work, and load nothing remote."""
    pytest.importorskip("voila")
    port = free_port()
    command = [sys.executable, "-m", "labkit", "explore", "--no-browser", "--port", str(port)]
    with server(command, f"http://127.0.0.1:{port}/voila/static/voila.js", tmp_path, stop=signal.SIGINT):
        page = browser.new_page(viewport={"width": 320, "height": 800})
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/", timeout=START_S * 1000)
        page.wait_for_function(
            "(count) => document.querySelectorAll('.labkit-explorer').length === count", arg=len(EXPLORERS), timeout=60_000
        )
        explorer = ExplorerPage(
            page, page.locator(".labkit-explorer", has=page.get_by_text("Sampling explorer", exact=True))
        )
        before = explorer.sentence
        explorer.press(explorer.slider("Temperature"), "End")
        explorer.wait_for_change(before)
        widths = page.evaluate(OVERFLOW)

        assert [row for row in widths if row[1] > 1 or row[2] > 320] == []
        local = (f"http://127.0.0.1:{port}/", "data:", "blob:")
        assert requested
        assert [address for address in requested if not address.startswith(local)] == []
        page.close()


@pytest.mark.thorough
def test_pages_share_their_model_and_end_their_kernels(browser: Browser, tmp_path: Path) -> None:
    """Two pages of one file share its weights; a page that is reloaded or closed ends its kernel within 30 s."""
    pytest.importorskip("voila")
    port = free_port()
    command = [sys.executable, "-m", "labkit", "explore", "sampling", "--no-browser", "--port", str(port)]
    before = _kernels()
    with server(command, f"http://127.0.0.1:{port}/voila/static/voila.js", tmp_path, stop=signal.SIGINT):
        pages = browser.new_page(), browser.new_page()
        for page in pages:
            page.goto(f"http://127.0.0.1:{port}/", timeout=START_S * 1000)
            page.locator(".labkit-explorer").first.wait_for(timeout=START_S * 1000)
        for number in _kernels() - before:
            rss, pss = _mapped_kib(number, bundled_model_path())
            assert pss < 0.6 * rss
        for _ in range(3):
            pages[0].reload(timeout=START_S * 1000)
            pages[0].locator(".labkit-explorer").first.wait_for(timeout=START_S * 1000)
        _wait_for_kernels(before, 2)
        pages[0].close()
        _wait_for_kernels(before, 1)
        pages[1].close()
        _wait_for_kernels(before, 0)


def _kernels() -> set[int]:
    """Return the process ids of the kernels that this test's programs run."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found |= {process.pid} if "ipykernel_launcher" in " ".join(process.cmdline()) else set()
    return found


def _wait_for_kernels(before: set[int], count: int) -> None:
    ends_s = time.monotonic() + 30
    while len(_kernels() - before) != count:
        assert time.monotonic() < ends_s, f"{len(_kernels() - before)} kernels, not {count}"
        time.sleep(0.5)


def _mapped_kib(number: int, path: Path) -> tuple[int, int]:
    """Return how much of a file a process has mapped, and its proportional share of that."""
    maps = Path(f"/proc/{number}/smaps").read_text(encoding="utf-8")
    entries = re.findall(rf"{re.escape(path.name)}\n.*?^Rss: +(\d+) kB\nPss: +(\d+)", maps, re.DOTALL | re.MULTILINE)
    return sum(int(rss) for rss, _ in entries), sum(int(pss) for _, pss in entries)


def test_explore_at_a_used_port_is_an_error() -> None:
    """The page is served at the given port, or one line explains why not."""
    command = [sys.executable, "-m", "labkit", "explore", "sampling", "--no-browser", "--port"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        for port, words in ((other.getsockname()[1], "another program already listens there"), (70000, "0 to 65,535")):
            done = subprocess.run([*command, str(port)], capture_output=True, text=True, timeout=60)
            assert done.returncode == 1
            assert words in done.stderr
            assert "Traceback" not in done.stderr


def test_explore_without_voila_names_the_package() -> None:
    """Without Voilà, one line says what to install."""
    code = "import sys; sys.modules['voila'] = None; from labkit.cli import main; sys.exit(main(['explore', 'sampling']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'pip install "llama-cpp-lab[explore]"' in done.stderr
    assert "Traceback" not in done.stderr
