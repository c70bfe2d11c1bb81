"""Where llama_cpp is not installed, what does not need it works, and all else says in one line how to install it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

import labkit
from labkit.quantize import CODECS
from labkit.system import engine_command
from tests import without_engine_child as steps
from tests.broken_engine import BLOCKER, environment
from tests.grading import handed_in, source_notebook, why_no_sandbox, write
from tests.tiny_models import write_tiny_model

MISSING = "llama.cpp is not installed (there is no package llama_cpp): "


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run all steps in a process that cannot import llama_cpp; return the result of each."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    write_tiny_model(folder / "tiny.gguf")
    write(folder / "source", ".", source_notebook())
    write(folder / "submissions", "ada", handed_in())
    (folder / "info.py").write_text("from labkit import get_model_info\n", encoding="utf-8")
    profile = labkit.measure_system(bandwidth=False).replace(read_bytes_per_second=1e10, bandwidth_threads=2)
    (folder / "profile").write_bytes(pickle.dumps(profile))
    child = subprocess.run(
        [sys.executable, steps.__file__, folder / "tiny.gguf", folder],
        env=environment(path=folder), capture_output=True, text=True, encoding="utf-8", check=False, timeout=240,
    )  # fmt: skip
    assert (child.returncode, child.stderr) == (0, "")
    return dict(map(json.loads, child.stdout.splitlines()))


def test_what_describes_a_model_needs_no_engine(said: dict[str, str]) -> None:
    """Headers, formats, codecs, sampling, sizes, recommendations and names work."""
    assert said["get_model_info"] == "llama"
    assert said["gguf_file"] == "('llama', 4.5)"
    assert said["codecs"] == f"({len(CODECS)}, 32.0)"
    for name in ("sampling", "settings", "list_models", "ghost_shapes", "records"):
        assert "Error" not in said[name]
    assert said["recommend_settings"] == "{'n_ctx': 4096, 'type_k': 'f16', 'type_v': 'f16', 'n_gpu_layers': 0}"


def test_estimates_assume_a_usual_build(said: dict[str, str]) -> None:
    """Both methods are the formula's, and say which build they assume."""
    for name in ("estimate by formula", "estimate by auto", "estimate on a GPU"):
        assert said[name].startswith("formula ")
        assert "llama.cpp cannot be loaded here" in said[name]
        assert "no GPU" not in said[name]
    assert said["estimate by formula"] == said["estimate by auto"]


def test_a_saved_profile_bounds_the_speed(said: dict[str, str]) -> None:
    """Without kernels to time, the speed is what the bandwidth allows."""
    assert "upper bounds" in said["predict_speed"]
    assert "from the given profile" in said["predict_speed"]


def test_explorers_of_files_need_no_engine(said: dict[str, str]) -> None:
    """Memory, GGUF and quantization explorers show their first view."""
    assert "cache" in said["memory explorer"]
    assert "tensor" in said["GGUF explorer"]
    assert "as Q4_0" in said["quantization explorer"]


@pytest.mark.parametrize("name", [name for name in steps.FUNCTIONS if name.startswith("needs: ")])
def test_functions_that_compute_name_the_command(name: str, said: dict[str, str]) -> None:
    """A LabkitError of one line, with the command for this machine."""
    assert said[name] == f"EngineError: {MISSING}{engine_command()}"


@pytest.mark.parametrize("name", steps.COMMANDS)
def test_commands_work_or_name_the_command(name: str, said: dict[str, str]) -> None:
    """Commands that need no engine work; the others end with one line and status 1."""
    code, error, output = said[f"labkit {name}"].split("|", 2)
    if name.startswith("needs: "):
        assert (code, error) == ("1", f"labkit: {MISSING}{engine_command()}\n")
    elif name == "doctor":
        findings = {finding["what"]: finding for finding in json.loads(output)["findings"]}
        assert (code, error, findings["llama.cpp"]["state"]) == ("1", "", "missing")
        assert findings["llama.cpp"]["fix"].endswith(engine_command())
    elif name != "grade" or not why_no_sandbox():
        assert (code, error) == ("0", "")
        assert output
