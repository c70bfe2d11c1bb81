"""Autograders for Gradescope, Classroom 50 and GitHub Actions: out, graded, and back in, by each platform's rules."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from labkit.cli import main
from tests.grading import NAME, STUB, handed_in, why_no_sandbox, write_source

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the platforms run Linux")
needs_sandbox = pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "sandbox works")
MODES = [pytest.param([], marks=needs_sandbox), ["--unsafe-no-sandbox"]]
HALF = handed_in(softmax_at=STUB.format(name="softmax_at"))


def release(folder: Path, platform: str, *options: str) -> Path:
    """Write an autograder; return its folder."""
    write_source(folder / "source")
    assert main(["release", str(folder / "source"), "--out", str(folder / platform), "--for", platform, *options]) == 0
    return folder / platform


def place(folder: Path, notebook: dict[str, Any], name: str = f"{NAME}.ipynb") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(notebook), encoding="utf-8")


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def unpack(folder: Path, *options: str) -> Path:
    """Return Gradescope's folder /autograder with the released zip and a submission."""
    root = folder / "autograder"
    with zipfile.ZipFile(release(folder, "gradescope", *options) / "autograder.zip") as archive:
        archive.extractall(root / "source")
        assert {"setup.sh", "run_autograder"} <= set(archive.namelist()), "both must be at the zip's root"
        assert all(archive.getinfo(name).external_attr >> 16 & 0o111 for name in ("setup.sh", "run_autograder"))
    (root / "results").mkdir()
    shutil.copy(root / "source" / "run_autograder", root / "run_autograder")
    return root


def check_gradescope(found: dict[str, Any]) -> None:
    """Check a result by Gradescope's autograder specification."""
    assert found.keys() <= {"score", "execution_time", "output", "visibility", "stdout_visibility", "extra_data", "tests"}
    kinds = {"hidden", "after_due_date", "after_published", "visible"}
    assert found.get("stdout_visibility", "hidden") in kinds
    for test in found["tests"]:
        assert test.keys() <= {"score", "max_score", "name", "number", "output", "tags", "visibility", "extra_data"}
        assert 0 <= test["score"] <= test["max_score"]
        assert test["visibility"] in kinds
    assert found["score"] == sum(test["score"] for test in found["tests"])


@pytest.mark.parametrize("options", MODES)
def test_gradescope_goes_round(tmp_path: Path, options: list[str]) -> None:
    """Gradescope's zip grades a submission into results.json; without a sandbox the result says so, loudly."""
    root = unpack(tmp_path, *options)
    place(root / "submission", HALF, "my homework.ipynb")
    result = run(["bash", str(root / "run_autograder")], root, AUTOGRADER=str(root))
    assert result.returncode == 0, result.stderr
    found = json.loads((root / "results" / "results.json").read_text())
    check_gradescope(found)
    assert found["score"] == 2
    assert [(test["name"], test["score"]) for test in found["tests"]] == [("hw: softmax_at", 0), ("hw: count_min_p", 2)]
    assert ("UNSAFE" in found["output"]) == bool(options)


def test_gradescope_without_a_sandbox_stops(tmp_path: Path) -> None:
    """Where bubblewrap cannot run, there is no result and no downgrade: the log names the override."""
    root = unpack(tmp_path)
    place(root / "submission", HALF)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "mktemp", "cp", "mkdir"):
        (tools / name).symlink_to(str(shutil.which(name)))
    result = run([str(tools / "bash"), str(root / "run_autograder")], root, AUTOGRADER=str(root), PATH=str(tools))
    assert result.returncode != 0
    assert "no sandbox" in result.stderr
    assert "--unsafe-no-sandbox" in result.stderr
    assert not (root / "results" / "results.json").exists()


def test_bundled_wheel_is_this_labkit(tmp_path: Path) -> None:
    """The wheel's record fits its files, and labkit runs from it."""
    root = unpack(tmp_path)
    (wheel,) = (root / "source").glob("*.whl")
    assert f"/source/{wheel.name}[grading]" in (root / "source" / "setup.sh").read_text()
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (record,) = (name for name in files if name.endswith("/RECORD"))
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(files[record].decode()))}
    assert rows.keys() == files.keys()
    for name, content in files.items():
        if name != record:
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert rows[name] == [f"sha256={digest}", str(len(content))]
    assert not any("__pycache__" in name for name in files)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import labkit.errors; print(labkit.errors.__file__)"
    result = run([sys.executable, "-I", "-S", "-c", code, str(wheel)], tmp_path)
    assert (
        wheel.name in result.stdout + result.stderr
    )  # without site-packages, lazy_loader is missing: in labkit/__init__.py


CLASSROOM = {
    "CLASSROOM": "llm", "ASSIGNMENT": "hw", "SUBMISSION_TAG": "submit/2026-06-01T14-32-05Z-a1b2c3d", "OWNER": "jdoe",
    "COMMIT_URL": "https://example.org/commit/1", "RELEASE_URL": "https://example.org/release/1",
}  # fmt: skip


def check_classroom(found: dict[str, Any]) -> None:
    """Check a result by the rules of Classroom 50's collect_scores.py."""
    assert found["schema"] == "classroom50/result/v1"
    assert (found["classroom"], found["assignment"], found["owner"]) == ("llm", "hw", "jdoe")
    assert found["assignment_type"] in ("individual", "group")
    assert found["submission"].startswith("submit/")
    assert all(isinstance(found[name], str) and found[name] for name in ("commit", "release", "review", "datetime"))
    for test in [found, *found["tests"]]:
        assert type(test["score"]) is type(test["max-score"]) is int
        assert 0 <= test["score"] <= test["max-score"]
    assert all(test["test-name"] and isinstance(test["passed"], bool) for test in found["tests"])


@pytest.mark.parametrize("options", MODES)
def test_classroom_goes_round(tmp_path: Path, options: list[str]) -> None:
    """Classroom 50's autograder grades a checkout into result.json, in half points, as its scores are integers."""
    folder = release(tmp_path, "classroom", "--publish-solutions", *options)
    place(tmp_path / "checkout", HALF)
    result = run([sys.executable, str(folder / "autograder.py")], tmp_path / "checkout", **CLASSROOM)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "checkout" / "result.json").read_text())
    check_classroom(found)
    assert (found["score"], found["max-score"]) == (4, 8)
    assert ("UNSAFE" in " ".join(found["notes"])) == bool(options)


def test_classroom_publishes_solutions_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Classroom 50 publishes autograders, one with solutions needs --publish-solutions; existing files need --force."""
    write_source(tmp_path / "source")
    command = ["release", str(tmp_path / "source"), "--out", str(tmp_path / "out"), "--for", "classroom"]
    assert main(command) == 1
    assert "publishes its autograders" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--publish-solutions"]) == 0
    assert main([*command, "--publish-solutions"]) == 1
    assert main([*command, "--publish-solutions", "--force"]) == 0


@pytest.mark.parametrize("options", MODES)
def test_actions_go_round(tmp_path: Path, options: list[str]) -> None:
    """The workflow's own command grades submissions/ and writes a job summary without markup of students."""
    folder = release(tmp_path, "actions", *options)
    workflow = yaml.safe_load((folder / ".github" / "workflows" / "grade.yml").read_text())
    (command,) = (step["run"] for step in workflow["jobs"]["grade"]["steps"] if step.get("name") == "Grade")
    (wheel,) = (folder / "grading").glob("*.whl")
    assert wheel.name in (folder / ".github" / "workflows" / "grade.yml").read_text()
    for name in ("alice", "b`ob|<b>"):
        place(folder / "submissions" / name, HALF)
    command = command.replace("python -m", f"{sys.executable} -m")
    result = run(["bash", "-c", command], folder, GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"))
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "summary.md").read_text()
    assert "| `alice` | `hw` | 2 of 4 |" in text
    assert "| `b'ob¦<b>` | `hw` | 2 of 4 |" in text
    assert ("UNSAFE" in text) == bool(options)
    assert (folder / "grades" / "grades.csv").is_file()
