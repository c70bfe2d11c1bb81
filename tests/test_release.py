"""The students' version has no solutions, is reproducible and runs; the course passes its self-test."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import labkit
from labkit.cli import main
from labkit.course.checks import judge, known_exercises
from labkit.course.release import ReleaseResult, release_course, stub_of
from labkit.course.selftest import selftest_course
from labkit.course.source import read_source
from labkit.grading.rebuild import rebuild

COURSE = Path(__file__).resolve().parent.parent / "notebooks"
FUNCTION = """def count_min_p(shares, min_p):
    ### BEGIN SOLUTION
    return sum(x >= min_p * max(shares) for x in shares)
    ### END SOLUTION"""


def _marks(name: str, **marks: Any) -> dict[str, Any]:
    base = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False, "cell_type": "code"}
    return {"nbgrader": {**base, "grade_id": name, **marks}}


def _notebook(answer: str = FUNCTION, *, points: float = 2, check: str = 'check("count_min_p")') -> Any:
    cells = [
        new_markdown_cell("# Aim\n<details><summary>A solution</summary>secret words</details>\nmore", id="aim"),
        new_code_cell("value = 40 + 2\nvalue", id="value"),
        new_code_cell(answer, id="answer", metadata=_marks("count_min_p", solution=True)),
        new_code_cell(
            f"from labkit.course import check\n\n{check}",
            id="check",
            metadata=_marks("check-count_min_p", grade=True, locked=True, points=points),
        ),
    ]
    cells[1].outputs, cells[1].execution_count = [nbformat.v4.new_output("stream", text="42\n")], 1
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def _write(folder: Path, notebook: Any, name: str = "05_made_up.ipynb") -> Path:
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / name)
    return folder


def test_release_keeps_stubs_and_points_only(tmp_path: Path) -> None:
    """Solutions, hidden tests and outputs are removed, ids and other cells kept; a second release has the same bytes."""
    hidden = 'check("count_min_p")\n### BEGIN HIDDEN TESTS\nassert secret\n### END HIDDEN TESTS'
    source = _write(tmp_path / "source", _notebook(check=hidden))
    for name in ("one", "two"):
        release_course(source, tmp_path / name)
    files = [sorted((tmp_path / name).iterdir()) for name in ("one", "two")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    text = (tmp_path / "one" / "05_made_up.ipynb").read_text(encoding="utf-8")
    assert "secret" not in text
    assert "SOLUTION" not in text
    assert "HIDDEN" not in text
    released = nbformat.reads(text, as_version=4)
    nbformat.validate(released)
    assert [cell.id for cell in released.cells] == ["aim", "value", "answer", "check"]
    assert released.cells[1].source == "value = 40 + 2\nvalue"
    assert released.cells[1].outputs == []
    assert released.cells[3].source.startswith("# 2 points\n")


def test_a_released_notebook_runs_to_its_end(tmp_path: Path) -> None:
    """Run All does not stop at a stub: its check reports that there is no answer."""
    release_course(_write(tmp_path / "source", _notebook()), tmp_path / "out")
    notebook = nbformat.read(tmp_path / "out" / "05_made_up.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert "No answer: replace the placeholder" in notebook.cells[3].outputs[0]["data"]["text/plain"]


def test_manifest_describes_the_files(tmp_path: Path) -> None:
    """Its checksums match the files, its points the check cells, its cells the notebook."""
    result = release_course(_write(tmp_path / "source", _notebook()), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / ".manifest.json").read_text(encoding="utf-8"))
    (entry,) = manifest["notebooks"]
    assert entry["sha256"] == hashlib.sha256((tmp_path / "out" / entry["file"]).read_bytes()).hexdigest()
    assert [cell["role"] for cell in entry["cells"]] == ["other", "other", "answer", "check"]
    assert entry["cells"][3]["points"] == entry["points"] == result.points == 2


def test_grading_accepts_an_unchanged_released_notebook(tmp_path: Path) -> None:
    """Points above a check, removed hidden tests and cells after the last check do not count as tampering."""
    hidden = 'check("count_min_p")\n### BEGIN HIDDEN TESTS\nassert secret\n### END HIDDEN TESTS'
    notebook = _notebook(check=hidden)
    notebook.cells.append(new_code_cell("after = 1", id="after"))
    source = _write(tmp_path / "source", notebook)
    release_course(source, tmp_path / "out")
    name = "05_made_up.ipynb"
    rebuilt = rebuild(read_source(source / name), (tmp_path / "out" / name).read_bytes())
    assert rebuilt.problems == ()


def test_stub_earns_nothing_and_compiles() -> None:
    """A function's stub raises an error where the solution was, a value's is None."""
    names: dict[str, Any] = {}
    exec(stub_of(FUNCTION, "count_min_p"), names)  # noqa: S102  # the stub
    assert judge(known_exercises()["count_min_p"], names["count_min_p"])[0] is False
    value = stub_of("import math\n### BEGIN SOLUTION\nx = math.pi\n### END SOLUTION", "x")
    assert value == "import math\nx = None  # YOUR CODE HERE"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda nb: nb.cells[2].update(source="def count_min_p(): pass"), "needs one region"),
        (lambda nb: nb.cells[2].update(source=FUNCTION.replace("### END SOLUTION", "")), "needs one region"),
        (lambda nb: nb.cells[1].update(source=FUNCTION), "not marked as an answer"),
        (lambda nb: nb.cells.pop(2), "both an answer cell and a check cell"),
        (lambda nb: nb.cells[3].update(source="### BEGIN HIDDEN TESTS\nx"), "have no end"),
    ],
)
def test_inconsistent_notebook_is_refused_in_one_line(change: Any, words: str, tmp_path: Path) -> None:
    """The error names the problem, and no file is written."""
    notebook = _notebook()
    change(notebook)
    source = _write(tmp_path / "source", notebook)
    with pytest.raises(labkit.GradingError, match=words) as error:
        release_course(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_release_replaces_files_only_with_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second release into the same folder needs --force; the folder with the solutions is refused as target."""
    source = _write(tmp_path / "source", _notebook())
    out = tmp_path / "out"
    assert main(["release", str(source), "--out", str(out)]) == 0
    assert main(["release", str(source), "--out", str(out)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["release", str(source), "--out", str(out), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == 2
    with pytest.raises(labkit.ArgumentError, match="solutions"):
        release_course(source, source)
    with pytest.raises(labkit.ArgumentError, match="no notebooks"):
        release_course(out.parent, tmp_path / "other")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReleaseResult]:
    """Release the course; return the folder and the result."""
    folder = tmp_path_factory.mktemp("course")
    return folder / "out", release_course(COURSE, folder / "out")


def test_course_is_released_without_solutions(released: tuple[Path, ReleaseResult]) -> None:
    """Every notebook of the course has a students' version without a solution."""
    folder, result = released
    assert [one.name for one in result.notebooks] == [path.name for path in sorted(COURSE.glob("*.ipynb"))]
    assert {name for one in result.notebooks for name in one.exercises} == set(known_exercises())
    for path in folder.glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        nbformat.validate(nbformat.reads(text, as_version=4))
        assert "SOLUTION" not in text
        assert "A solution</summary>" not in text


def test_released_links_work(released: tuple[Path, ReleaseResult]) -> None:
    """Links in a released folder point to a file in it or to the web."""
    folder, _ = released
    pages = sorted((folder / "docs").glob("*.md"))
    assert "glossary.md" in [page.name for page in pages]
    notebooks = sorted(folder.glob("*.ipynb"))
    texts = {path: path.read_text(encoding="utf-8") for path in pages}
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        texts[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = [(path, link) for path, text in texts.items() for link in re.findall(r"\]\(([^)#\s]+)", text)]
    assert len(links) > 20
    for path, link in links:
        assert link.startswith("https://") or (path.parent / link).is_file(), (path.name, link)
    manifest = json.loads((folder / ".manifest.json").read_text())
    assert {"AGENTS.md", "docs/glossary.md", "docs/cheat-sheet.md"} == {item["file"] for item in manifest["files"]}


SECRET = "return sum(x >= min_p * max(shares) for x in shares)"
DETAILS = "<details{}><summary>{}</summary>{}</details>"


@pytest.mark.parametrize(
    "text",
    [
        f"before\n### BEGIN SOLUTION\n{SECRET}\n### END SOLUTION\nafter",
        f"before\n=== BEGIN MARK SCHEME ===\n{SECRET}\n=== END MARK SCHEME ===\nafter",
        f"before\n### BEGIN MARK SCHEME\n{SECRET}\n### END MARK SCHEME\nafter",
        f"before\n### BEGIN HIDDEN TESTS\n{SECRET}\n### END HIDDEN TESTS\nafter",
        f"before\r\n### BEGIN SOLUTION\r\n{SECRET}\r\n### END SOLUTION\r\nafter",
        "before\n" + DETAILS.format("", "A solution", SECRET) + "\nafter",
        "before\n" + DETAILS.format("", "Lösung", SECRET) + "\nafter",
        "before\n" + DETAILS.format("", "Musterlösung", SECRET) + "\nafter",
        "before\n" + DETAILS.format(" open", "<b>Answers</b>", DETAILS.format("", "Why", "because") + SECRET) + "after",
        "before\n" + DETAILS.format("", "Hints", "hint" + DETAILS.format("", "Solution", SECRET)) + "\nafter",
    ],
)
@pytest.mark.parametrize("kind", ["markdown", "raw"])
def test_text_cells_are_released_without_solutions(text: str, kind: str, tmp_path: Path) -> None:
    """Solutions, mark schemes, hidden tests and details with a solution go; the text around them stays."""
    notebook = _notebook()
    notebook.cells[0] = nbformat.from_dict({"cell_type": kind, "id": "aim", "metadata": {}, "source": text})
    release_course(_write(tmp_path / "source", notebook), tmp_path / "out")
    released = (tmp_path / "out" / "05_made_up.ipynb").read_text(encoding="utf-8")
    aim = json.loads(released)["cells"][0]["source"]
    assert SECRET not in released
    assert aim.startswith("before")
    assert aim.endswith("after")
    assert ("hint" in aim) is ("Hints" in text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n### begin solution\nx\n### end solution", 2),
        ("### BEGIN SOLUTION\nx\n", 1),
        ("a\nb\n### END SOLUTION", 3),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", 2),
        ("### BEGIN SOLUTION\nx\n### END HIDDEN TESTS", 3),
        ("## BEGIN SOLUTION\nx\n## END SOLUTION", 1),
        ("x = 1  ### BEGIN SOLUTION\n### END SOLUTION", 1),
        ("### BEGIN_SOLUTION\nx\n### END_SOLUTION", 1),
        ("a\n<details><summary>Solution</summary>x", 2),
        (f"a\n\n{SECRET}", 3),
        (f"Try `{SECRET}` yourself.", 1),
    ],
)
def test_release_refuses_what_it_cannot_understand(text: str, line: int, tmp_path: Path) -> None:
    """The error names the cell and the line, and nothing is written."""
    notebook = _notebook()
    notebook.cells[0].source = text
    source = _write(tmp_path / "source", notebook)
    with pytest.raises(labkit.GradingError, match=rf"05_made_up\.ipynb, cell 1 \(aim\), line {line}: ") as error:
        release_course(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_release_finds_solutions_anywhere(tmp_path: Path) -> None:
    """A line of a solution in metadata or in a copied file is refused; widget states and unused attachments go."""
    notebook = _notebook()
    notebook.metadata["widgets"] = {"state": {"box": SECRET}}
    notebook.cells[0].source = "![](attachment:kept.png)\n### BEGIN SOLUTION\n![](attachment:gone.png)\n### END SOLUTION"
    notebook.cells[0].attachments = {name: {"image/png": "AAAA"} for name in ("kept.png", "gone.png")}
    source = _write(tmp_path / "source", notebook)
    release_course(source, tmp_path / "out")
    released = json.loads((tmp_path / "out" / "05_made_up.ipynb").read_text(encoding="utf-8"))
    assert list(released["cells"][0]["attachments"]) == ["kept.png"]
    assert "widgets" not in released["metadata"]
    notebook.cells[1].metadata["note"] = {"draft": [f"x\n  {SECRET.replace(' ', '')}"]}
    with pytest.raises(labkit.GradingError, match=r"cell 2 \(value\), metadata, line \d+: a line of a solution"):
        release_course(_write(tmp_path / "source", notebook), tmp_path / "out2")
    notebook.cells[1].metadata.pop("note")
    notebook.cells[
        1
    ].source += "\nx = 3\nreturn sum(\n    x >= min_p * max(shares)\n    for x in shares,\n)  # as black divides it"
    with pytest.raises(labkit.GradingError, match=r"cell 2 \(value\): a line of a solution"):
        release_course(_write(tmp_path / "source", notebook), tmp_path / "out3")


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_course_passes_its_selftest(capsys: pytest.CaptureFixture[str]) -> None:
    """Solutions earn all points, stubs none, known mistakes get their hint and fail in grading."""
    assert main(["selftest-course", str(COURSE), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["name"]: one["fault"] for one in found["exercises"]} == dict.fromkeys(known_exercises(), "")
    assert found["faults"] == 0


def test_selftest_finds_a_wrong_solution_and_wrong_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong solution and points that differ from the exercise's are faults."""
    wrong = FUNCTION.replace(">=", ">")
    (one,) = selftest_course(_write(tmp_path / "wrong", _notebook(wrong)))
    assert "solution is wrong" in one.fault
    assert main(["selftest-course", str(tmp_path / "wrong")]) == 1
    assert "1 exercise, 1 faulty" in capsys.readouterr().out
    needs_import = FUNCTION.replace("sum(", "math.fsum(")
    notebook = _notebook(needs_import)
    (one,) = selftest_course(_write(tmp_path / "alone", notebook))
    assert "NameError" in one.fault
    notebook.cells[1].source = "%matplotlib inline\nimport math\n1 / 0"
    (one,) = selftest_course(_write(tmp_path / "import", notebook))
    assert one.fault == ""
    (one,) = selftest_course(_write(tmp_path / "points", _notebook(points=5)))
    assert "5 points, the exercise 2" in one.fault
