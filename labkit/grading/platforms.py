"""Autograders for Gradescope, Classroom 50 and GitHub Actions: files to upload, and each platform's result file.

References
----------
Gradescope's autograder specification (``setup.sh``, ``run_autograder``, ``results.json``); Classroom 50's
``wiki/Advanced-Autograding.md`` and ``collect_scores.py`` (``autograder.py``, ``result.json``); GitHub's job summaries.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import json
import os
import secrets
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import labkit
from labkit.course.release import write_files
from labkit.course.source import exercises_file, read_sources
from labkit.errors import ArgumentError, GradingError
from labkit.extras import DISTRIBUTION
from labkit.grading.gradebook import Grade
from labkit.grading.untrusted_text import visible
from labkit.output_files import user_path, write_atomic

PLATFORMS = ("gradescope", "classroom", "actions")
UNSAFE = "UNSAFE: graded without a sandbox. Submitted code could read the solutions and change this result."
PUBLISHES = (
    "Classroom 50 publishes its autograders on GitHub Pages, so that anyone can read the solutions in them: pass "
    "--publish-solutions if your Pages are private, or use --for actions in a private repository"
)

_SETUP = """#!/usr/bin/env bash
# Installs labkit, as it was when `labkit release --for gradescope` made this file, and the sandbox.
set -euo pipefail
root="${AUTOGRADER:-/autograder}"
apt-get update
apt-get install -y bubblewrap build-essential cmake python3-dev python3-venv
python3 -m venv "$root/venv"
"$root/venv/bin/pip" install "$root/source/WHEEL[grading]"
"""
_RUN = """#!/usr/bin/env bash
# Grades one submission with labkit. Without a working sandbox it stops, unless it was made with --unsafe-no-sandbox.
set -euo pipefail
root="${AUTOGRADER:-/autograder}"
python="${PYTHON:-$root/venv/bin/python}"
out="$(mktemp -d)"
"$python" -m labkit grade "$root/submission" --source "$root/source/notebooks" --out "$out" OPTIONS
mkdir -p "$root/results"
cp "$out/results.json" "$root/results/results.json"
"""
_CLASSROOM = '''"""Grades one submission with labkit and writes result.json; made by `labkit release --for classroom`.

Put this folder at CLASSROOM/autograders/ASSIGNMENT/ and give the assignment the runtime {"apt": ["bubblewrap"]}.
Without a working sandbox it stops, unless it was made with --unsafe-no-sandbox.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
python = os.environ.get("PYTHON", "")
if not python:
    python = sys.executable
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{HERE / 'WHEEL'}[grading]"], check=True)
    # Ubuntu 24.04 keeps programs from making user namespaces, which bubblewrap needs
    subprocess.run(["sudo", "-n", "sysctl", "-q", "kernel.apparmor_restrict_unprivileged_userns=0"], check=False)
with tempfile.TemporaryDirectory() as out:
    command = [python, "-m", "labkit", "grade", os.getcwd(), "--source", str(HERE / "notebooks"), "--out", out]
    subprocess.run([*command, *shlex.split("OPTIONS")], check=True)
    shutil.copyfile(Path(out, "result.json"), "result.json")
'''
_WORKFLOW = """# Grades the folder submissions/ of this repository with labkit; made by `labkit release --for actions`.
# The repository has the solutions: keep it private, and do not give students access.
name: grade
on:
  workflow_dispatch:
  push:
    paths: ["submissions/**"]
permissions:
  contents: read
jobs:
  grade:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - name: Install the sandbox and labkit
        run: |
          sudo apt-get update
          sudo apt-get install -y bubblewrap
          # Ubuntu 24.04 keeps programs from making user namespaces, which bubblewrap needs
          sudo sysctl -q kernel.apparmor_restrict_unprivileged_userns=0 || true
          pip install "grading/WHEEL[grading]"
      - name: Grade
        run: python -m labkit grade submissions --source grading/notebooks --out grades OPTIONS
      - uses: actions/upload-artifact@v4
        if: always()
        with:
          name: grades
          path: grades
"""


def package_for(
    platform: str, source: str | Path, target: str | Path, *, unsafe_no_sandbox: bool = False, overwrite: bool = False
) -> list[Path]:
    """Write a platform's autograder into a folder: the notebooks with their solutions, labkit itself and the scripts."""
    sources, place, folder = read_sources(source), user_path(target), user_path(source)
    wheel, content = _wheel()
    options = ["--results", platform, *(["--unsafe-no-sandbox"] if unsafe_no_sandbox else [])]
    options += ["--seed", str(secrets.randbelow(2**31))]  # the same inputs for every submission
    if platform != "actions":
        options += ["--student-level", "0"]

    def filled(text: str) -> bytes:
        return text.replace("WHEEL", wheel).replace("OPTIONS", shlex.join(options)).encode()

    notebooks = {f"{name}.ipynb": (folder / f"{name}.ipynb" if folder.is_dir() else folder).read_bytes() for name in sources}
    own = exercises_file(folder if folder.is_dir() else folder.parent)
    grading: dict[str, bytes] = {wheel: content}
    grading |= {f"notebooks/{name}": text for name, text in notebooks.items()}
    grading |= {f"notebooks/{name}": text.encode() for name, text in own.items()}
    if platform == "gradescope":
        scripts = {"setup.sh": filled(_SETUP), "run_autograder": filled(_RUN)}
        files = {"autograder.zip": _zip({**scripts, **grading})}
    elif platform == "classroom":
        files = {"autograder.py": filled(_CLASSROOM), **grading}
    elif platform == "actions":
        files = {".github/workflows/grade.yml": filled(_WORKFLOW), **{f"grading/{n}": text for n, text in grading.items()}}
    else:
        raise ArgumentError(f"no platform is named {platform!r}: choose one of {', '.join(PLATFORMS)}")
    write_files(place, files, overwrite=overwrite)
    return [place / name for name in files]


def write_results(platform: str, out: Path, grades: Sequence[Grade], problems: Sequence[str], *, unsafe: bool) -> Path:
    """Write a platform's result file into the folder of the grades."""
    notes = [*([UNSAFE] if unsafe else []), *problems]
    if platform == "gradescope":
        name, text = "results.json", json.dumps(_gradescope(grades, notes), indent=1)
    elif platform == "classroom":
        name, text = "result.json", json.dumps(_classroom(grades, notes, os.environ), indent=1)
    else:
        name, text = "summary.md", _summary(grades, notes)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(summary).open("a", encoding="utf-8") as stream:
                stream.write(text)
    write_atomic(out / name, text)
    return out / name


def _gradescope(grades: Sequence[Grade], notes: Sequence[str]) -> dict[str, Any]:
    tests = []
    for grade in grades:
        for item in grade.exercises:
            shown = "\n\n".join(filter(None, (item.message, item.check and f"Output of the check:\n{item.check}")))
            tests.append(
                {
                    "name": f"{grade.notebook}: {item.name}",
                    "score": item.points,
                    "max_score": item.of_points,
                    "output": visible(shown),
                    "visibility": "visible",
                }
            )
    lines = [*notes, *(f"{grade.notebook}: {problem}" for grade in grades for problem in grade.problems)]
    score = sum(grade.points for grade in grades)
    return {"score": score, "output": visible("\n".join(lines)), "stdout_visibility": "hidden", "tests": tests}


def _classroom(grades: Sequence[Grade], notes: Sequence[str], known: Mapping[str, str]) -> dict[str, Any]:
    """Return Classroom 50's result; its points are integers, and labkit's are half points: all are doubled."""
    tests = [
        {
            "test-name": f"{grade.notebook}: {item.name} (half points)",
            "passed": item.points == item.of_points,
            "score": round(2 * item.points),
            "max-score": round(2 * item.of_points),
            "output": visible(item.message),
        }
        for grade in grades
        for item in grade.exercises
    ]
    names = {"submission": "SUBMISSION_TAG", "commit": "COMMIT_URL", "release": "RELEASE_URL"}
    if missing := [name for name in ("CLASSROOM", "ASSIGNMENT", *names.values()) if not known.get(name)]:
        raise GradingError(f"{missing[0]} is not set: --results classroom works in Classroom 50's autograder only")
    return {
        "schema": "classroom50/result/v1",
        "classroom": known["CLASSROOM"],
        "assignment": known["ASSIGNMENT"],
        "assignment_type": known.get("ASSIGNMENT_TYPE", "individual"),
        "owner": known.get("OWNER") or known.get("USERNAME", ""),
        **{field: known[name] for field, name in names.items()},
        "review": known.get("REVIEW_URL") or known["COMMIT_URL"],
        "datetime": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "score": sum(int(str(test["score"])) for test in tests),
        "max-score": sum(int(str(test["max-score"])) for test in tests),
        "tests": tests,
        "notes": [visible(note) for note in notes],
    }


def _summary(grades: Sequence[Grade], notes: Sequence[str]) -> str:
    """Return a job summary in Markdown; student's text is only in code spans, without back quotes."""
    lines = ["## Grades", "", "| student | notebook | points |", "|---|---|---|"]
    lines += [f"| {_code(g.display_name)} | {_code(g.notebook)} | {g.points:g} of {g.of_points:g} |" for g in grades]
    return "\n".join([*lines, "", *(f"- {_code(note)}" for note in notes), ""])


def _code(text: str) -> str:
    plain = " ".join(visible(text).split()).replace("`", "'").replace("|", "\N{BROKEN BAR}")
    return f"`{plain}`"


def _wheel() -> tuple[str, bytes]:
    """Return the file name and the content of a wheel of the running labkit, so that every machine grades alike."""
    try:
        known = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise GradingError(f"{DISTRIBUTION} is not installed: install it in this environment to bundle it") from None
    package = Path(labkit.__file__).parent
    own = [path for path in sorted(package.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    files = {
        f"labkit/{path.relative_to(package).as_posix()}": path.read_bytes() for path in own if "_course" not in path.parts
    }
    stem = f"{DISTRIBUTION.replace('-', '_')}-{known.version}"
    texts = {
        "METADATA": known.read_text("METADATA") or "",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: labkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": known.read_text("entry_points.txt") or "",
    }
    files |= {f"{stem}.dist-info/{name}": text.encode() for name, text in texts.items()}
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    return f"{stem}-py3-none-any.whl", _zip(files)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _zip(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of files; scripts are executable."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.external_attr = (0o100755 if content.startswith(b"#!") else 0o100644) << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return out.getvalue()
