"""Look over the installation: what is here, what is missing, and what to do about it.

Exits with 1 when something that the course needs is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from labkit.cli.output import Output
from labkit.errors import LabkitError
from labkit.records import Record
from labkit.units import format_bytes

HELP = "what is installed, what is missing, what to do"

State = Literal["ok", "note", "missing"]
_MARKS: dict[State, str] = {"ok": "ok", "note": "note", "missing": "MISSING"}


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Finding(Record):
    """One thing that was looked at."""

    what: str
    state: State
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    findings = [finding for check in CHECKS for finding in check()]
    missing = [finding for finding in findings if finding.state == "missing"]
    out.table(("", "what", "found", "what to do"), [(_MARKS[f.state], f.what, f.found, f.advice) for f in findings])
    out.say("Something that the course needs is missing." if missing else "All that the course needs is here.")
    out.result({"healthy": not missing, "findings": findings})
    return 1 if missing else 0


def check_python() -> Iterator[Finding]:
    """Look at Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "ok" if sys.version_info >= (3, 10) else "missing", version, "")


def check_packages() -> Iterator[Finding]:
    """Look for the packages that the course uses."""
    needed = ("llama-cpp-python", "gguf", "jupyterlab", "ipywidgets", "nbval", "psutil", "matplotlib", "huggingface-hub")
    for name in needed:
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", "not installed", f"pip install {name}")


def check_engine() -> Iterator[Finding]:
    """Look at what llama.cpp was built with."""
    from labkit.system import engine_build

    try:
        build = engine_build()
    except LabkitError as error:
        yield Finding("llama.cpp", "missing", "cannot be imported", str(error))
        return
    yield Finding("llama.cpp's CPU features", "ok", ", ".join(build.features) or "none reported")
    devices = ", ".join(device.name for device in build.devices)
    yield Finding("devices", "ok", devices, "" if build.has_gpu else "no GPU backend: n_gpu_layers runs on the CPU")
    advice = "build with CMAKE_ARGS=-DGGML_RPC=ON for layers on a second device"
    yield Finding(
        "RPC backend", "ok" if build.has_rpc else "note", "yes" if build.has_rpc else "no", "" if build.has_rpc else advice
    )


def check_instructions() -> Iterator[Finding]:
    """Compare the CPU's instructions with those that llama.cpp was built for (Linux says what a CPU has)."""
    from labkit.system import engine_build, unused_instructions

    unused: tuple[str, ...] = ()
    with contextlib.suppress(LabkitError):  # told above
        unused = unused_instructions(engine_build().features)
    if unused:
        advice = "slower than it could be: build it here with pip install --no-binary llama-cpp-python llama-cpp-python"
        yield Finding("CPU instructions", "note", f"the CPU has {', '.join(unused)}, the build does not", advice)


def check_model() -> Iterator[Finding]:
    """Look for the bundled model, and for the student's own."""
    from labkit.models import bundled_model_path, course_model

    try:
        path = bundled_model_path()
        yield Finding("bundled model", "ok", f"{path.name}, {format_bytes(path.stat().st_size)}")
    except LabkitError as error:
        yield Finding("bundled model", "missing", "not found", str(error))
    if os.environ.get("LABKIT_MODEL"):
        try:
            yield Finding("LABKIT_MODEL", "ok", course_model().name)
        except LabkitError as error:
            yield Finding("LABKIT_MODEL", "missing", os.environ["LABKIT_MODEL"], str(error))


def check_machine() -> Iterator[Finding]:
    """Look at cores and RAM that this process may use."""
    from labkit.system import available_ram_bytes, cpu_quota, logical_cores_available, physical_cores_available

    quota = cpu_quota()
    limit = f"; the container may use {quota:g}" if quota is not None else ""
    cores = f"{physical_cores_available()} physical, {logical_cores_available()} logical{limit}"
    yield Finding("cores for this process", "ok", cores)
    ram = available_ram_bytes()
    tight = "close other programs: the course wants 2 GiB" if ram < 2 * 1024**3 else ""
    yield Finding("free RAM", "note" if tight else "ok", format_bytes(ram), tight)


def check_settings() -> Iterator[Finding]:
    """Look for traps in how load_model would load the models of the course here; what is missing is told above."""
    try:
        from labkit.lint import lint_settings
    except (ImportError, OSError, RuntimeError):  # llama_cpp's own: told above
        return
    for model in (None, os.environ.get("LABKIT_MODEL")) if os.environ.get("LABKIT_MODEL") else (None,):
        with contextlib.suppress(LabkitError):
            for trap in lint_settings(model).findings:
                if trap.code != "unused-instructions":
                    yield Finding(f"{trap.code}, {_name(model)}", "note", f"{trap.trap}: {trap.cost}", trap.mend)


def _name(model: str | None) -> str:
    return "bundled model" if model is None else Path(model).name


def check_instructor_tools() -> Iterator[Finding]:
    """Look for what only instructors and developers need."""
    from labkit.grading.sandbox.start import refuse_without_isolation

    problem = ""
    try:
        refuse_without_isolation()
    except LabkitError as error:
        problem = str(error)
    yield Finding("grading sandbox", "note" if problem else "ok", "no" if problem else "bubblewrap works", problem)
    found = shutil.which("chromium")
    yield Finding("chromium", "ok" if found else "note", "yes" if found else "no", "" if found else "only for browser tests")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_engine,
    check_instructions,
    check_model,
    check_machine,
    check_settings,
    check_instructor_tools,
)
