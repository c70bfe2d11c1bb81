"""The wheel works without a clone: built from the sdist, installed in a fresh environment, used outside the repository."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import labkit
from tests.test_project import ROOT

pytestmark = pytest.mark.thorough
COURSE = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    _uv(["build", "-q", "--out-dir", str(folder), str(ROOT)], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone in a fresh environment, which sees this environment's other packages; return its scripts."""
    folder = tmp_path_factory.mktemp("fresh")
    _uv(["venv", "-q", "--python", sys.executable, str(folder / "venv")], folder)
    _uv(["pip", "install", "-q", "--python", str(folder / "venv"), "--no-deps", str(wheel)], folder)
    site = sysconfig.get_path("purelib", vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")})
    (Path(site) / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "venv" / ("Scripts" if os.name == "nt" else "bin")


def _uv(arguments: list[str], folder: Path) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "this test needs uv: pip install uv"
    done = subprocess.run([uv, *arguments], cwd=folder, capture_output=True)
    assert done.returncode == 0, f"uv {arguments[0]} failed"  # its output would name the package index


def _labkit(scripts: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run([scripts / "labkit", *arguments], cwd=folder, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_has_the_course_and_its_metadata(wheel: Path) -> None:
    """The wheel has every notebook, the pages they link to, and the version of the package."""
    assert wheel.name == f"llama_cpp_lab-{labkit.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    course = [name.removeprefix("labkit/_course/") for name in names if name.startswith("labkit/_course/")]
    assert {name.removeprefix("notebooks/") for name in course if name.endswith(".ipynb")} == COURSE
    assert {"docs/glossary.md", "docs/cheat-sheet.md"} <= set(course)
    assert not any(name.startswith(("tests/", "notebooks/")) for name in names)


def test_tour_runs(scripts: Path, tmp_path: Path) -> None:
    """The installed command shows the bundled model at work, and is of this wheel, not of the clone."""
    assert "tokens/s" in _labkit(scripts, tmp_path, "tour")
    code = "import labkit; print(labkit.__file__)"
    found = subprocess.run([scripts / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert scripts.parent in Path(found.stdout.strip()).parents


def test_release_needs_no_clone(scripts: Path, tmp_path: Path) -> None:
    """The students' version is the same as the one from the clone, with the pages that the notebooks link to."""
    _labkit(scripts, tmp_path, "release", "--out", "installed")
    _labkit(scripts, tmp_path, "release", str(ROOT / "notebooks"), "--out", "clone")
    written = {path.relative_to(tmp_path / "clone") for path in (tmp_path / "clone").rglob("*") if path.is_file()}
    assert {path.name for path in written} >= {*COURSE, "glossary.md", "cheat-sheet.md", ".manifest.json"}
    for path in written:
        assert (tmp_path / "installed" / path).read_bytes() == (tmp_path / "clone" / path).read_bytes(), path


def test_lab_opens_a_copy(scripts: Path, tmp_path: Path) -> None:
    """`labkit lab` copies the course into the current folder, and JupyterLab serves it."""
    with _jupyter(scripts, tmp_path) as server:
        address = f"{server['url']}api/contents?token={server['token']}"
        with urllib.request.urlopen(address, timeout=20) as answer:
            served = {entry["name"] for entry in json.load(answer)["content"]}
    assert served >= COURSE
    text = (tmp_path / "llama-cpp-lab" / "03_inside_gguf.ipynb").read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in text


@contextlib.contextmanager
def _jupyter(scripts: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Run `labkit lab` until the block ends; yield the server's own record."""
    shared = Path(sysconfig.get_path("data")) / "share" / "jupyter"  # JupyterLab's pages, in this environment
    places = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = {**os.environ, **places, "JUPYTERLAB_DIR": str(shared / "lab"), "JUPYTER_PATH": str(shared)}
    Path(places["JUPYTER_CONFIG_DIR"]).mkdir()  # containers run tests as root
    (Path(places["JUPYTER_CONFIG_DIR"]) / "jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
    command = [scripts / "labkit", "lab", "--no-browser"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, env=environment) as process:
        try:
            end = time.monotonic() + 60
            while not (found := list((folder / "runtime").glob("jpserver-*.json"))):
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.1)
            yield json.loads(found[0].read_text(encoding="utf-8"))
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in (*psutil.Process(process.pid).children(recursive=True), process):
                    child.kill()
