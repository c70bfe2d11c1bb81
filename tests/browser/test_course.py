"""Every notebook of the course runs in JupyterLab without an error, with live explorers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.jupyter import violations

if TYPE_CHECKING:
    from tests.browser.jupyter import Lab

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))

OVERFLOW = (
    "() => [...document.querySelectorAll('.jp-MarkdownOutput, .jp-OutputArea-output, .widget-vbox')]"
    ".filter((one) => one.scrollWidth > one.clientWidth + 1)"
    ".map((one) => [one.innerText.slice(0, 60), one.scrollWidth, one.clientWidth])"
)


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_in_jupyterlab(lab: Lab, path: Path) -> None:
    """Run All finishes without an error, each explorer and prediction box is a live widget, and all text fits 620 pixels."""
    source = path.read_text(encoding="utf-8")
    n_explorers = len(re.findall(r"labkit\.explore\(", "".join(re.findall(r'"source": \[.*?\]', source, re.DOTALL))))
    with lab.notebook(source=path) as notebook:
        page = notebook.page
        assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
        assert page.locator("text=Error displaying widget").count() == 0
        if n_explorers:
            page.wait_for_function(
                "(count) => document.querySelectorAll('.labkit-explorer').length === count", arg=n_explorers
            )
        assert page.locator(".jp-OutputArea input[type=text]").count() >= source.count('predict(\\"')
        page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
        page.set_viewport_size({"width": 620, "height": 6000})
        assert page.evaluate(OVERFLOW) == []
        assert violations(page, ".jp-OutputArea") == []
        assert notebook.errors == []
