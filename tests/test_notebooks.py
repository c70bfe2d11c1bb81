"""The notebooks run from top to bottom, reproduce their stored outputs, and follow the form of COURSE.md."""

import getpass
import html.parser
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

import labkit
from tests.stated_values import NOT_COMPARED, contradictions
from tools import section_times

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# The longest ones run only with --thorough, as in CI (see conftest.py).
LONG = (
    "01_load_and_generate",
    "02_chat_and_tokens",
    "04_quantization",
    "05_sampling",
    "06_memory",
    "07_benchmarking",
    "08_threads_and_gpu_layers",
    "09_milestone",
    "10_structured_output",
    "11_serving",
    "12_larger_than_your_machine",
)
THOROUGH = [f"test_notebook_reproduces_its_outputs[{name}]" for name in LONG]
# Chapters that do not yet end with "The same in llama.cpp"; whoever writes it removes the chapter here.
WITHOUT_LLAMA_CPP: set[str] = set()
# Cells that fail when run again, and texts with ranges that no test compares; remove what you fix.
FAIL_AGAIN: dict[str, set[str]] = {}
NOT_YET_IN_BOLD: set[str] = set()
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# Not allowed in the course's texts: folders of a particular machine, addresses of package registries.
FOREIGN = re.compile(r"/home/|/ro[o]t/|/Users/|/tmp/|\b[A-Za-z]:\\\\|site-packages|pypi\.org|python[h]osted|ipykernel_\d+")

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def own_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a small model with random weights: Qwen2's layout, six layers, Q4_K_M without fallbacks."""
    shape = {"n_layer": 6, "n_embd": 512, "n_head": 8, "n_head_kv": 2}
    path: Path = labkit.build_ghost_model(tmp_path_factory.mktemp("own") / "own.gguf", architecture="qwen2", shape=shape)
    return path


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def texts(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "markdown"]


def codes(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def outputs(path: Path) -> list[Any]:
    return [output for cell in codes(path) for output in cell.outputs]


def as_text(output: Any) -> str:
    """Return an output as text, without pictures."""
    parts = [output.get("text", ""), *map(str, output.get("data", {}).values())]
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", "\n".join(parts))


def count_words(text: str) -> int:
    """Count the words of prose, without tables, formulas, code and addresses."""
    text = re.sub(r"```.*?```|\$\$.*?\$\$", " ", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    return len(re.findall(r"\w[\w'’.,-]*", " ".join(prose)))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_notebook_reproduces_its_outputs(path: Path) -> None:
    """Strict nbval: every cell runs, and outputs that do not depend on the machine are identical."""
    # Waiting threads sleep instead of spinning: on a busy machine a run takes seconds, not minutes.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "HF_HUB_OFFLINE": "1"}
    for name in ("LABKIT_MODEL", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-sanitize-with", str(FOLDER / "sanitize.cfg")]
    command += ["--nbval-current-env", "--nbval-cell-timeout", "300", "-q", "-p", "no:cacheprovider", "--color", "no"]
    command += ["-o", "addopts=", "-o", "filterwarnings=default", "-o", "timeout=0", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_cells_run_again_and_after_a_restart(path: Path) -> None:
    """Each cell runs twice; after a restart in the middle, the cells up to there and the others run (twice) as well."""
    notebook = read(path)
    places = [place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    middle = places[len(places) // 2]
    resources = {"metadata": {"path": str(path.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3", resources=resources, allow_errors=True)
    failed = set()
    for first, run in enumerate(([place for place in places if place < middle], places)):
        with client.setup_kernel():
            for place in run:
                for _ in range(2 if first == 0 or place >= middle else 1):
                    cell = client.execute_cell(notebook.cells[place], place)
                    failed |= {cell.id for output in cell.outputs if output.output_type == "error"}
    assert failed == FAIL_AGAIN.get(path.stem, set())


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_notebook_runs_with_another_model(path: Path, own_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs with a LABKIT_MODEL of a different architecture, shape and type."""
    monkeypatch.setenv("LABKIT_MODEL", str(own_model))
    notebook = read(path)
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3", resources=resources).execute()
    source = "\n".join(cell.source for cell in codes(path))
    assert "course_model()" in source
    assert "bundled_model_path" not in source


def test_notebook_is_small_valid_and_portable(path: Path) -> None:
    """Each notebook is under 500 KB and valid, with kernel "python3" and machine-independent metadata."""
    assert path.stat().st_size < 500_000
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "version" not in notebook.metadata.language_info


def test_cells_have_unique_word_ids(path: Path) -> None:
    """Cell ids are words and unique: grading finds exercises by them."""
    ids = [cell.id for cell in read(path).cells]
    assert len(ids) == len(set(ids))
    for identifier in ids:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", identifier), identifier


def test_stored_outputs_are_from_one_run(path: Path) -> None:
    """Every code cell ran once, in order, without errors or warnings; no widget view is stored."""
    assert [cell.execution_count for cell in codes(path)] == list(range(1, len(codes(path)) + 1))
    for output in outputs(path):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output
        assert WIDGET_VIEW not in output.get("data", {})
        assert "Traceback" not in as_text(output)


def test_nothing_machine_specific_is_stored(path: Path) -> None:
    """No cell or output has a folder, machine name, user name or package registry."""
    found = [as_text(output) for output in outputs(path)] + [cell.source for cell in read(path).cells]
    names = {platform.node(), getpass.getuser()} - {"root"}
    here = [str(Path.home()), str(ROOT), *(name for name in names if len(name) > 3)]
    for text in found:
        assert not FOREIGN.search(text), text
        assert not any(name in text for name in here), text


def test_notebook_opens_with_aim_time_and_needs(path: Path) -> None:
    """The first cell has the title, the learning goals, the time and the requirements."""
    opening = texts(path)[0].source
    assert read(path).cells[0].cell_type == "markdown"
    assert re.match(rf"# {path.name[:2]} · \w+", opening)
    for part in ("At the end you can", "**Time:**", "minutes", "**Needs:**", "RAM"):
        assert part in opening, part


def test_times_match_the_cells(path: Path) -> None:
    """Step headings, the opening and the course map have the minutes computed by tools/section_times.py."""
    notebook = read(path)
    before = [cell.source for cell in notebook.cells]
    total = section_times.write_times(notebook)
    assert [cell.source for cell in notebook.cells] == before, "run tools/section_times.py"
    course_map = "\n".join(cell.source for cell in texts(FOLDER / "00_start_here.ipynb"))
    assert re.search(rf"^\| {path.name[:2]} \| [^|]*\| {total} \|", course_map, re.MULTILINE), "run tools/section_times.py"


def test_notebook_closes_with_recap_and_three_questions(path: Path) -> None:
    """The second to last cell is the recap, the last one has three questions to take away."""
    *_, recap, questions = read(path).cells
    assert recap.source.startswith("## Recap")
    assert "Three questions to take away" in questions.source
    assert re.findall(r"^(\d)\. .*\?$", questions.source, re.MULTILINE) == ["1", "2", "3"]


def test_notebook_ends_with_the_same_in_llamacpp(path: Path) -> None:
    """Before the recap, a table names the chapter's things in llama_cpp and llama.cpp's programs; a cell runs llama_cpp."""
    cells = read(path).cells[:-2]
    starts = [place for place, cell in enumerate(cells) if cell.source.startswith("## The same in llama.cpp")]
    assert len(starts) == (path.stem[:2] not in WITHOUT_LLAMA_CPP)
    if starts:
        table, *rest = cells[starts[0] :]
        header, _, *rows = [line for line in table.source.splitlines() if line.startswith("|")]
        assert header == "| labkit | `llama_cpp` | `llama-cli`, `llama-server` |"
        assert len(rows) >= 3
        code = "\n".join(cell.source for cell in rest if cell.cell_type == "code")
        assert re.search(r"^(import llama_cpp|from llama_cpp import .*)$", code, re.MULTILINE)
        assert "**What you should see.**" in [cell for cell in rest if cell.cell_type == "markdown"][-1].source


def test_texts_agree_with_the_stored_outputs(path: Path) -> None:
    """What "What you should see" states in bold is in the outputs since the last such cell; every range is in bold."""
    printed: list[str] = []
    for cell in read(path).cells:
        if cell.cell_type == "code":
            printed += [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
        elif "**What you should see.**" in cell.source:
            seen = cell.source.partition("**What you should see.**")[2].partition("**Explain.**")[0]
            assert not contradictions(seen, printed), (cell.id, contradictions(seen, printed))
            unchecked = NOT_COMPARED.search(seen)
            assert bool(unchecked) == (cell.id in NOT_YET_IN_BOLD), (cell.id, unchecked)
            printed = []


def test_cells_are_short(path: Path) -> None:
    """Text cells have at most 80 words, code cells at most 15 lines, and solutions, which students do not get, 20."""
    for cell in texts(path):
        assert count_words(cell.source) <= 80, (count_words(cell.source), cell.source)
    for cell in codes(path):
        is_solution = cell.metadata.get("nbgrader", {}).get("solution", False)
        assert len(cell.source.splitlines()) <= (20 if is_solution else 15), cell.source


def test_every_prediction_is_compared_and_explained(path: Path) -> None:
    """Each prediction is compared with a measurement, and its step explains what you should see and why."""
    source = "\n".join(cell.source for cell in codes(path))
    boxes = re.findall(r"^(\w+) = predict\(", source, re.MULTILINE)
    assert boxes
    for name in boxes:
        assert len(re.findall(rf"\b{name}\.compare\(", source)) == 1, name
    steps = re.split(r"^## (?=\d)", "\n".join(cell.source for cell in read(path).cells), flags=re.MULTILINE)[1:]
    for step in steps:
        if "predict(" in step:
            assert "**What you should see.**" in step, step
            assert "**Explain.**" in step, step


def test_varying_outputs_are_not_compared(path: Path) -> None:
    """Cells that print generated text or a speed have nbval's ignore tag; no cell uses nbval's comments."""
    for cell in codes(path):
        assert "NBVAL" not in cell.source.upper().replace("-", "_")
        varies = re.search(r"per_second|_s\b|measure_system|print\(labkit\.generate|repr\(text\)", cell.source)
        if varies and cell.outputs:
            assert "nbval-ignore-output" in cell.metadata.get("tags", []), cell.source


class _Images(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.texts.append(dict(attrs).get("alt") or "")


def test_images_have_alt_text(path: Path) -> None:
    """Every stored picture has an alt text of a sentence; text cells embed no pictures."""
    for output in outputs(path):
        data = output.get("data", {})
        assert not {"image/png", "image/jpeg", "image/svg+xml"} & set(data), "wrap it in HTML: JupyterLab shows no alt text"
        parser = _Images()
        parser.feed(data.get("text/html", ""))
        assert all(len(text) > 20 for text in parser.texts)
    for cell in texts(path):
        assert "![](" not in cell.source
        assert "<img" not in cell.source


def test_links_have_targets(path: Path) -> None:
    """Every link to a file has a target; the course map marks exactly the chapters that do not exist yet."""
    source = "\n".join(cell.source for cell in texts(path))
    for target in re.findall(r"\]\(([^)#]+)\)", source):
        assert target.startswith("https://") or (FOLDER / target).is_file(), target
    existing = {notebook.name[:2] for notebook in NOTEBOOKS}
    for chapter, row in re.findall(r"^\| (\d\d) \| (.*)$", source, re.MULTILINE):
        assert ("coming in a later release" in row) == (chapter not in existing), row
