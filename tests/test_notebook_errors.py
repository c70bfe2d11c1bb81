"""An error in a notebook shows the student's own line and the message, and none of labkit's frames."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

import labkit
from labkit.errors import Interrupted

CELLS = (
    "import os, signal, threading, time, labkit\nmodel = labkit.load_model(n_ctx=512)",
    "def mine(prompt):\n    return labkit.generate_text(model, prompt, temperature=-1)",
    "text = 'a'\nmine(text)",
    "started = time.monotonic()\nthreading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    "for seed in range(100):\n    labkit.generate_text(model, 'Once', 500, temperature=1.5, seed=seed)",
    "report = model.last_generation\nassert report.finish_reason == 'cancelled', report\n"
    "text = ''.join(labkit.token_text(model, token) for token in report.token_ids)\n"
    "assert text.startswith(report.text) and len(report.text) > len(text) - 4",
    "threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    "for chunk in labkit.stream_text(model, 'word ' * 450, 40):\n    pass",
    "labkit.generate_text(model, 'The capital of France is', 1, 0)",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[nbformat.NotebookNode]:
    """Return the outputs of the cells, run in a real kernel."""
    made: Any = nbformat.v4
    notebook = made.new_notebook(cells=[made.new_code_cell(source) for source in CELLS])
    folder = str(tmp_path_factory.mktemp("notebook"))
    nbclient.NotebookClient(
        notebook, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": folder}}
    ).execute()
    return [cell.outputs for cell in notebook.cells]


def _shown(output: nbformat.NotebookNode) -> list[str]:
    assert output.output_type == "error", output
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback)).splitlines()


def test_error_shows_own_lines_and_the_message(outputs: list[nbformat.NotebookNode]) -> None:
    """A wrong argument given in a student's function shows the call, the line in the function, and one message."""
    assert _shown(outputs[2][0]) == [
        "Cell In[3], line 2",
        "----> 2 mine(text)",
        "",
        "Cell In[2], line 2",
        "----> 2 return labkit.generate_text(model, prompt, temperature=-1)",
        "",
        f"ArgumentError: {outputs[2][0].evalue}",
    ]


def test_interrupt_shows_the_own_line_and_keeps_the_text(outputs: list[nbformat.NotebookNode]) -> None:
    """An interrupt shows the interrupted line and where the text so far is; the model works on."""
    shown = _shown(outputs[3][-1])
    assert shown[:2] == [
        "Cell In[4], line 4",
        "----> 4 labkit.generate_text(model, 'Once', 500, temperature=1.5, seed=seed)",
    ]
    assert re.fullmatch(
        r"Interrupted: interrupted after \d+ tokens?: the text so far is in last_generation\.text .*", shown[-1]
    )
    assert outputs[4] == []
    assert _shown(outputs[5][-1])[:2] == [
        "Cell In[6], line 2",
        "----> 2 for chunk in labkit.stream_text(model, 'word ' * 450, 40):",
    ]
    assert outputs[6][0].data["text/plain"] == "' Paris'"


def test_interrupt_is_still_a_keyboard_interrupt() -> None:
    """Code that catches KeyboardInterrupt catches it, code that catches Exception does not."""
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert not issubclass(Interrupted, Exception)


def test_every_error_renders_outside_of_a_notebook() -> None:
    """Without IPython's cells the file and line are shown."""
    try:
        labkit.load_model("no-such-model")
    except labkit.LabkitError as error:
        shown = error._render_traceback_()
    assert shown[0].startswith(f"{Path(__file__)}, line ")
    assert shown[-1].startswith("ModelNotFoundError: ")
