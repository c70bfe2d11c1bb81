"""Shapes of honest notebooks: split answers, cells of one's own, files without ids; check at home and grading agree."""

from __future__ import annotations

import contextlib
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from labkit.course import checks
from labkit.course.release import release_course
from labkit.course.source import SourceNotebook, read_source
from labkit.grading.grade import grade_course
from labkit.grading.notebook_file import without_outputs
from labkit.grading.rebuild import Rebuilt, rebuild
from tests.grading import LIMITS, NAME, SOLUTIONS, cell, handed_in, source_notebook, why_no_sandbox, write, write_source

needs_sandbox = pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "sandbox works")
GOOD = SOLUTIONS["count_min_p"]
STUB = 'def count_min_p(shares, min_p):\n    # YOUR CODE HERE\n    raise NotImplementedError("write your code here")'

# Answers to count_min_p, and whether they are right.
ANSWERS = {
    "plain": (GOOD, True),
    "changes its argument": (
        "def count_min_p(shares, min_p):\n    shares.sort()\n    most, count = shares[-1], 0\n"
        "    while shares and shares.pop() >= min_p * most:\n        count += 1\n    return count",
        True,
    ),
    "NumPy": (
        "import numpy as np\n\ndef count_min_p(shares, min_p):\n"
        "    return (np.array(shares) >= min_p * np.max(shares)).sum()",
        True,
    ),
    "longdouble": (
        "import numpy as np\n\ndef count_min_p(s, p):\n    return np.longdouble(sum(x >= p * max(s) for x in s))",
        True,
    ),
    "Decimal": (
        "from decimal import Decimal\n\ndef count_min_p(s, p):\n    return Decimal(sum(x >= p * max(s) for x in s))",
        True,
    ),
    "Fraction": (
        "from fractions import Fraction\n\ndef count_min_p(s, p):\n    return Fraction(sum(x >= p * max(s) for x in s))",
        True,
    ),
    "text": ("def count_min_p(s, p):\n    return str(sum(x >= p * max(s) for x in s))", False),
    "generator": ("def count_min_p(s, p):\n    return (x for x in s if x >= p * max(s))", False),
    "set": ("def count_min_p(s, p):\n    return {x for x in s if x >= p * max(s)}", False),
    "bytes": ("def count_min_p(s, p):\n    return bytes(sum(x >= p * max(s) for x in s))", False),
    "huge": ("def count_min_p(s, p):\n    return 10 ** 5000", False),
    "itself": ("def count_min_p(s, p):\n    x = []\n    x.append(x)\n    return x", False),
    "a mistake": ("def count_min_p(s, p):\n    return sum(x >= p for x in s)", False),
    "keeps state": ("def count_min_p(s, p, seen=[]):\n    seen.append(1)\n    return sum(x >= p * max(s) for x in s)", True),
    "the placeholder": (STUB, False),
}


def _insert(notebook: dict[str, Any], before: str, source: str, cell_id: str = "mine", **other: Any) -> None:
    at = [item["id"] for item in notebook["cells"]].index(before)
    new = {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None, "id": cell_id}
    notebook["cells"].insert(at, {**new, **other})


def _part(notebook: dict[str, Any], before: str, source: str, cell_id: str = "part", name: str = "count_min_p") -> None:
    """Insert a part of an answer, as JupyterLab's split makes it: another id, the same mark."""
    _insert(notebook, before, source, cell_id, metadata=cell(notebook, f"solve-{name}")["metadata"])


def _keep(notebook: dict[str, Any], answer: str) -> None:
    del notebook, answer


def _split(notebook: dict[str, Any], answer: str) -> None:
    _part(notebook, "solve-count_min_p", "import itertools")
    cell(notebook, "solve-count_min_p")["source"] = answer


def _split_trial(notebook: dict[str, Any], answer: str) -> None:
    _part(notebook, "solve-count_min_p", answer)
    cell(notebook, "solve-count_min_p")["source"] = "count_min_p([0.5, 0.25], 0.4)\nnothing_of_that_name"


def _helper(notebook: dict[str, Any], answer: str) -> None:
    _insert(notebook, "solve-count_min_p", answer.replace("count_min_p", "helped"))
    cell(notebook, "solve-count_min_p")["source"] = "def count_min_p(shares, min_p):\n    return helped(shares, min_p)"


def _bound_again(notebook: dict[str, Any], answer: str) -> None:
    cell(notebook, "solve-softmax_at")["source"] = f"{SOLUTIONS['softmax_at']}\n\ndef helped(*given):\n    return 1"
    _helper(notebook, answer)
    notebook["cells"] += [
        {**cell(notebook, "mine"), "id": "later", "source": "def helped(*_):\n    return -1\ncount_min_p = math = 3"}
    ]


def _no_ids(notebook: dict[str, Any], answer: str) -> None:
    notebook["nbformat_minor"] = 4
    for item in notebook["cells"]:
        del item["id"]


def _no_marks(notebook: dict[str, Any], answer: str) -> None:
    _no_ids(notebook, answer)
    for item in notebook["cells"]:
        item["metadata"] = {}
        item["source"] = item["source"].splitlines(keepends=True)


def _windows(notebook: dict[str, Any], answer: str) -> None:
    for item in notebook["cells"]:
        item["source"] = item["source"].replace("\n", "\r\n")


def _stub_copy(notebook: dict[str, Any], answer: str) -> None:
    _part(notebook, "check-count_min_p", STUB)


def _copy_below(notebook: dict[str, Any], answer: str) -> None:
    notebook["cells"].append(
        {**cell(notebook, "solve-count_min_p"), "id": "copy", "source": "def count_min_p(*_):\n    return 0"}
    )


def _merged(notebook: dict[str, Any], answer: str) -> None:
    notebook["cells"].remove(cell(notebook, "solve-count_min_p"))
    cell(notebook, "solve-softmax_at")["source"] += f"\n\n{answer}"


def _pasted(notebook: dict[str, Any], answer: str) -> None:
    both = "\n\n".join(cell(notebook, f"solve-{name}")["source"] for name in SOLUTIONS)
    _insert(notebook, "solve-softmax_at", both)
    for name in SOLUTIONS:
        notebook["cells"].remove(cell(notebook, f"solve-{name}"))


def _one_cell(notebook: dict[str, Any], answer: str) -> None:
    checks = [f"check-{name}" for name in SOLUTIONS]
    text = "\n\n".join(cell(notebook, cell_id)["source"] for cell_id in [*(f"solve-{name}" for name in SOLUTIONS), *checks])
    cell(notebook, checks[-1])["source"] = text
    notebook["cells"] = [cell(notebook, cell_id) for cell_id in ("setup", checks[-1])]


def _in_the_setup(notebook: dict[str, Any], answer: str) -> None:
    _helper(notebook, answer)
    notebook["cells"].remove(cell(notebook, "mine"))
    cell(notebook, "setup")["source"] += "\n" + answer.replace("count_min_p", "helped")


SHAPES = (
    _keep, _split, _split_trial, _helper, _bound_again, _no_ids, _no_marks, _windows, _stub_copy, _copy_below, _in_the_setup,
    _merged, _pasted, _one_cell,
)  # fmt: skip


def _submission(shape: Any, answer: str) -> dict[str, Any]:
    notebook = handed_in(count_min_p=answer)
    shape(notebook, answer)
    return notebook


def _at_home(notebook: dict[str, Any]) -> bool:
    """Run a student's notebook in one namespace, as Jupyter does; return whether its last check of count_min_p passes."""
    results: list[checks.CheckResult] = []
    names: dict[str, Any] = {}

    class Noted(checks.CheckResult):
        def __init__(self, *values: Any) -> None:
            super().__init__(*values)
            results.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "CheckResult", Noted)
        for item in notebook["cells"]:
            with contextlib.suppress(Exception):
                code = TransformerManager().transform_cell("".join(item["source"]))
                exec(compile(code, "<cell>", "exec"), names)  # noqa: S102  # this test's own cells
    return next(one.passed for one in reversed(results) if one.name == "count_min_p")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceNotebook:
    return read_source(write_source(tmp_path_factory.mktemp("source")))


def _rebuilt(source: SourceNotebook, notebook: dict[str, Any]) -> Rebuilt:
    return rebuild(source, json.dumps(notebook).encode())


def _assert_agrees(folder: Path, chosen: list[tuple[Any, str]]) -> None:
    """Grade submissions and run them at home; an honest one has no problem, and a right one all points."""
    write_source(folder / "source")
    notebooks = {f"{shape.__name__} {kind}": _submission(shape, ANSWERS[kind][0]) for shape, kind in chosen}
    for name, notebook in notebooks.items():
        write(folder / "submissions", name, notebook)
    result = grade_course(folder / "source", folder / "submissions", folder / "grades", seed=3, limits=LIMITS, jobs=2)
    assert result.problems == ()
    assert len(result.grades) == len(chosen)
    for grade in result.grades:
        item = next(one for one in grade.exercises if one.name == "count_min_p")
        shape, kind = grade.display_name.split(" ", 1)
        right = ANSWERS[kind][1] and shape != _stub_copy.__name__  # the placeholder below an answer replaces it
        assert (item.points == item.of_points) is right, (grade.display_name, item)
        assert _at_home(notebooks[grade.display_name]) is right, grade.display_name
        assert grade.points - item.points == 2, grade
        told = {_copy_below.__name__: "below its check", _stub_copy.__name__: "more than one of its cells"}
        told |= {shape.__name__: " is missing: " for shape in (_merged, _pasted, _one_cell)}
        assert all(told.get(shape, "nothing") in problem for problem in grade.problems), grade.problems
        assert "Traceback" not in item.message + item.check
        hint = "It changes what it is given"
        assert (hint in item.message) is (hint in item.check) is (kind == "changes its argument" and right)


@needs_sandbox
def test_home_and_grading_agree(tmp_path: Path) -> None:
    """Each shape once, and each answer once."""
    kinds = list(ANSWERS)
    chosen = [(SHAPES[number % len(SHAPES)], kind) for number, kind in enumerate(kinds)]
    _assert_agrees(tmp_path, chosen)


@needs_sandbox
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_home_and_grading_agree_on_sixty(tmp_path: Path) -> None:
    """Sixty of all pairs of a shape and an answer."""
    pairs = [
        (shape, kind) for shape in SHAPES for kind in ANSWERS if not (shape is _stub_copy and kind == "the placeholder")
    ]
    _assert_agrees(tmp_path, random.Random(1).sample(pairs, 60))


def test_all_parts_are_one_answer(source: SourceNotebook) -> None:
    """Parts keep their order and run as separate cells; a copy that defines the name differently is reported."""
    notebook = handed_in(count_min_p=GOOD)
    _part(notebook, "solve-count_min_p", "import math")
    rebuilt = _rebuilt(source, notebook)
    assert rebuilt.answers["count_min_p"] == f"import math\n\n{GOOD}"
    assert [item.source for item in rebuilt.cells if item.answers == "count_min_p"] == ["import math", GOOD]
    assert rebuilt.problems == ()
    _part(notebook, "check-count_min_p", "count_min_p = 1", "copy")
    assert _rebuilt(source, notebook).problems == (
        "count_min_p is defined in more than one of its cells: the last one above its check counts.",
    )


def test_cells_below_the_check_do_not_count(source: SourceNotebook) -> None:
    """A copy of the answer cell below its check is reported and changes nothing."""
    notebook = _submission(_copy_below, GOOD)
    rebuilt = _rebuilt(source, notebook)
    assert rebuilt.answers["count_min_p"] == GOOD
    assert rebuilt.problems == ("A copy of the answer cell of count_min_p is below its check: it was not graded.",)


@pytest.mark.parametrize("shape", [_no_ids, _no_marks, _windows])
def test_notebooks_of_other_tools_are_found(source: SourceNotebook, shape: Any) -> None:
    """Without ids or marks, cells are found by their text, and nothing untrue is reported."""
    rebuilt = _rebuilt(source, _submission(shape, GOOD))
    assert [item.source for item in rebuilt.cells] == [item["source"] for item in source_notebook()["cells"]]
    assert rebuilt.problems == ()


_FIGURE = {"output_type": "display_data", "data": {"application/json": [[number, {}] for number in range(100_000)]}}


def _with_outputs(count: int, output: Any) -> bytes:
    notebook = handed_in()
    for item in notebook["cells"]:
        item["outputs"] = [output] * count
    notebook["metadata"]["widgets"] = {"state": [output]}
    return json.dumps(notebook).encode()


@pytest.mark.parametrize(
    ("count", "data"),
    [
        pytest.param(4, {"output_type": "stream", "text": [", ".join(map(str, range(49_152)))]}, id="numbers"),
        pytest.param(2, {"output_type": "display_data", "data": {"image/png": "A" * 1_900_000}}, id="picture"),
        pytest.param(2, _FIGURE, id="json", marks=pytest.mark.thorough),
    ],
)
def test_outputs_do_not_count(source: SourceNotebook, count: int, data: Any) -> None:
    """Notebooks with a million printed numbers, 19 MB of pictures or a large JSON output are read."""
    content = _with_outputs(count, data)
    tracemalloc.start()
    assert rebuild(source, content).answers["count_min_p"] == GOOD
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["outputs", "widgets"]), inner),
)


def _emptied(value: Any) -> Any:
    """Return a value with empty outputs, attachments and widgets: the reference."""
    if isinstance(value, dict):
        dropped = ("outputs", "attachments", "widgets")
        return {
            key: type(item)() if key in dropped and isinstance(item, (list, dict)) else _emptied(item)
            for key, item in value.items()
        }
    return list(map(_emptied, value)) if isinstance(value, list) else value


@given(_JSON, st.sampled_from([None, 1]), st.booleans())
def test_dropping_outputs_keeps_the_rest(value: Any, indent: int | None, ascii_only: bool) -> None:
    """Any JSON is the same without its outputs, however it is written."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert json.loads(without_outputs(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")) == _emptied(
        value
    )


@given(st.binary(max_size=300) | st.text('"\\[]{}:,outputs ').map(str.encode))
def test_dropping_outputs_never_fails(content: bytes) -> None:
    """Bytes that are not JSON are left to the parser."""
    assert isinstance(without_outputs(content), bytes)


@needs_sandbox
def test_disagreement_states_facts(tmp_path: Path) -> None:
    """If a check passes and the values differ, the report says how many, and accuses no one."""
    stateful = "right, tries = count_min_p, []\n\ndef count_min_p(*given):\n    tries.append(1)\n"
    stateful += "    return right(*given) + (len(tries) > 4)"
    answer = f"{GOOD}\n\n{stateful}"
    write_source(tmp_path / "source")
    write(tmp_path / "submissions", "alice", handed_in(count_min_p=answer))
    result = grade_course(tmp_path / "source", tmp_path / "submissions", tmp_path / "grades", seed=3, limits=LIMITS)
    assert result.grades[0].problems == (
        "The check of count_min_p printed that the answer is correct; 4 of 4 values that it was then asked for differ.",
    )


@needs_sandbox
def test_instructors_files_of_other_tools(tmp_path: Path) -> None:
    """An instructor's notebook without ids, with a byte order mark and Windows line ends is released and graded."""
    notebook = source_notebook()
    _no_ids(notebook, "")
    _windows(notebook, "")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / f"{NAME}.ipynb").write_text(json.dumps(notebook), encoding="utf-8-sig")

    for place in ("one", "two"):
        release_course(tmp_path / "source", tmp_path / place)
    released = (tmp_path / "one" / f"{NAME}.ipynb").read_bytes()
    assert released == (tmp_path / "two" / f"{NAME}.ipynb").read_bytes()
    cells = json.loads(released)["cells"]
    assert len({item["id"] for item in cells}) == len(cells)
    assert not [item for item in cells if "SOLUTION" in item["source"] or "\r" in item["source"]]
    assert rebuild(read_source(tmp_path / "source" / f"{NAME}.ipynb"), released).problems == ()
    for item in cells:
        if item["metadata"].get("nbgrader", {}).get("solution"):
            item["source"] = SOLUTIONS[item["metadata"]["nbgrader"]["grade_id"]]
    write(tmp_path / "submissions", "alice", {**json.loads(released), "cells": cells})
    result = grade_course(tmp_path / "source", tmp_path / "submissions", tmp_path / "grades", limits=LIMITS)
    assert (result.grades[0].points, result.grades[0].problems) == (4, ())
