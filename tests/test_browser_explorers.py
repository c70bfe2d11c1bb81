"""The explorers of the documentation site, as they run in a browser: with the standard library, and nothing of a machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from labkit.memory import estimate_memory_usage
from labkit.model_info import read_model_header
from labkit.models import bundled_model_path
from labkit.system import EngineBuild
from labkit.widgets.parts.what_fits import estimate_from_header

FOLDER = Path(__file__).resolve().parent.parent / "tools" / "site" / "_static" / "browser"
# Pyodide's core has lazy_loader from our archive and nothing else of these.
CHILD = """
import json, sys
from pathlib import Path
for name in ("llama_cpp", "numpy", "psutil", "platformdirs", "jinja2", "rich", "tqdm", "huggingface_hub", "ipywidgets",
             "matplotlib", "gguf"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import explorers
explorers.FOLDER = Path(sys.argv[2])
for name, values in json.loads(sys.stdin.read()):
    print(explorers.answer(name, json.dumps(values)))
"""
VALUES = {"n_ctx": "4096", "type_k": "f16", "type_v": "f16", "flash_attn": "auto", "n_ubatch": "512", "n_seq": "1",
          "use_mmap": "auto", "ram_gib": "8", "processor": "x86-64 with AVX2"}  # fmt: skip


def _ask(folder: Path, *questions: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", CHILD, str(FOLDER), str(folder)]
    done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_explorers_for_the_browser_need_only_the_standard_library() -> None:
    """They describe a file and estimate its memory without NumPy, psutil or an engine, with the figures of the formula."""
    path = bundled_model_path()
    opened, memory, keys, first = _ask(
        path.parent,
        ("open", {"names": [path.name]}),
        ("memory", VALUES),
        ("contents", {"show": "keys", "search": "block_count"}),
        ("contents", {"show": "first bytes", "search": ""}),
    )
    assert "llama, Q4_1, 135 million weights" in opened["sentence"]
    assert opened["context"] == 8192
    expected = estimate_memory_usage(n_ctx=4096, method="formula")
    assert f'<td style="padding:.25em;text-align:left">{expected.kv_cache_bytes / 2**20:,.1f}</td>' in memory["html"]
    assert "Fits: needs" in memory["html"]
    assert "1 of 33 keys" in keys["html"]
    assert "magic" in first["html"]


def test_too_little_ram_names_the_longest_context() -> None:
    """Where it does not fit, the sentence says how much is missing and which context fits."""
    path = bundled_model_path()
    _, memory = _ask(path.parent, ("open", {"names": [path.name]}), ("memory", {**VALUES, "ram_gib": "0.25"}))
    assert "the longest context that fits is " in memory["html"]


def test_an_invalid_file_gives_one_line_and_its_first_bytes(tmp_path: Path) -> None:
    """The reader's error is shown without the folder, and the bytes of the file can still be looked at."""
    (tmp_path / "page.gguf").write_bytes(b"<html><b>not found</b></html>")
    opened, first = _ask(tmp_path, ("open", {"names": ["page.gguf"]}), ("contents", {"show": "keys", "search": ""}))
    assert opened["error"].startswith("page.gguf: ")
    assert "\n" not in opened["error"]
    assert "&lt;html" in first["html"]


def test_an_estimate_for_another_build_follows_that_build() -> None:
    """Which weights are repacked depends on the build that is given, not on the installed one."""

    def of(*features: str) -> int:
        build = EngineBuild("", features, ("CPU",), False, False, (), ())
        return estimate_from_header(read_model_header(None), 2048, build=build, ram_bytes=2**30, use_mmap=True).repack_bytes

    assert of() == 0
    assert of("NEON", "DOTPROD", "REPACK") > 0  # the one Q8_0 tensor
