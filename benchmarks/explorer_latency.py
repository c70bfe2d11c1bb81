"""Latency of the sampling, memory and quantization explorers: from a slider's move to the new picture, in the browser.

Chromium presses an arrow key on a slider; the time is measured in the page, from the key press until the new picture is in
the page. The reference is a bare ipywidgets slider whose observer writes its value into an HTML widget.

    uv run benchmarks/explorer_latency.py [--moves 30]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from common import median, report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.browser.jupyter import ExplorerPage, find_chromium, open_browser, open_lab

BARE = """import ipywidgets
slider, page = ipywidgets.IntSlider(description="Bare"), ipywidgets.HTML("<p></p>")
page.add_class("labkit-view")
slider.observe(lambda change: setattr(page, "value", f"<p>{change['new']}</p>"), names="value")
box = ipywidgets.VBox([ipywidgets.HTML("<strong>Bare slider</strong>"), slider, page])
box.add_class("labkit-explorer")
box"""
CASES = (
    ("Bare slider", BARE, None),
    ("Sampling explorer", "labkit.explore('sampling', model)", "Temperature"),
    ("Memory explorer", "labkit.explore('memory', model)", "Context (tokens)"),
    ("Quantization explorer", "labkit.explore('quantization', model)", "First weight shown"),
)
GOAL_MS = 150
WATCH = """(box) => {
    window.moved = 0; window.updated = 0;
    box.addEventListener('keydown', () => { window.moved = performance.now(); window.updated = 0; }, true);
    new MutationObserver(() => { if (!window.updated) window.updated = performance.now(); })
        .observe(box.querySelector('.labkit-view'), { childList: true, subtree: true, characterData: true });
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=30)
    moves = parser.parse_args().moves
    executable = find_chromium()
    if executable is None:
        parser.error("needs chromium: install it, or name it in the environment variable CHROMIUM")
    times = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_browser(executable) as browser,
        open_lab(browser, Path(folder)) as lab,
        lab.notebook("import labkit\nmodel = labkit.load_model(n_ctx=1024)", *(code for _, code, _ in CASES)) as notebook,
    ):
        for title, _, label in CASES:
            times[title] = latencies(notebook.explorer(title), label, moves)
    bare = median(times["Bare slider"])
    rows = [
        (title, f"{median(found):.0f} ms, {sorted(found)[int(0.9 * len(found))]:.0f} ms, {median(found) / bare:.1f}")
        for title, found in times.items()
    ]
    goals = {title: median(found) <= GOAL_MS for title, found in times.items()}
    rows += [(f"goal: {title} ≤ {GOAL_MS} ms", "met" if met else "MISSED") for title, met in goals.items()]
    report(
        "explorer_latency",
        ("explorer", "median, 90th percentile, times the bare slider"),
        rows,
        {"milliseconds": {title: median(found) for title, found in times.items()}, "goals": goals},
    )


def latencies(explorer: ExplorerPage, label: str | None, moves: int) -> list[float]:
    """Return the milliseconds of some moves; the first two, in which Python imports what it draws with, do not count."""
    handle = explorer.slider(label) if label else explorer.box.locator(".noUi-handle")
    explorer.box.evaluate(WATCH)
    found = []
    handle.focus()
    for move in range(moves + 2):
        explorer.page.keyboard.press("ArrowLeft" if move % 4 > 1 else "ArrowRight")  # the slider's ends stay far
        explorer.page.wait_for_function("() => window.updated > 0")
        found.append(float(explorer.page.evaluate("() => window.updated - window.moved")))
        explorer.page.wait_for_timeout(150)
    return found[2:]


if __name__ == "__main__":
    main()
