"""Check the installation, this machine and a model file: what was found, what it costs and what to do.

Without MODEL the file is the bundled model, or the one in LABKIT_MODEL. Exits with 1 if something that the course needs is
missing; notes do not change the exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

from labkit.checks import check_int
from labkit.cli import doctor_checks as checks
from labkit.cli.arguments import add_model
from labkit.cli.doctor_checks import Finding
from labkit.cli.output import Output
from labkit.errors import LabkitError
from labkit.extras import install_command
from labkit.units import counted, format_bytes

HELP = "check the installation, this machine and a model file"

_LOOK_S = 0.5  # how long other programs are watched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, by_header=True)
    parser.add_argument("--n-ctx", type=int, default=2048, metavar="N", help="tokens of context (2,048); 0: as trained")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    n_ctx = check_int("n_ctx", args.n_ctx, 0, 2**31 - 1)
    about_file = list(check_file(args.model, n_ctx))  # first: a wrong name ends here, in one line
    findings = [finding for check in CHECKS for finding in check()]
    findings += [*about_file, *check_instructor_tools()]
    missing, notes = (sum(finding.state == state for finding in findings) for state in ("missing", "note"))
    out.table(("", "what", "found"), _rows(findings))
    verdict = "Something that the course needs is missing." if missing else "Everything that the course needs is here."
    out.say(f"{verdict} {counted(notes, 'note')}.", style="bold")
    out.result({"healthy": not missing, "findings": findings})
    return 1 if missing else 0


def _rows(findings: Iterable[Finding]) -> Iterator[tuple[str, str, str]]:
    """Yield up to three rows per finding: five columns would be too narrow to read."""
    for finding in findings:
        yield finding.state.upper() if finding.state == "missing" else finding.state, finding.what, finding.found
        if finding.cost:
            yield "", "  cost", finding.cost
        if finding.fix:
            yield "", "  fix", finding.fix


def check_packages() -> Iterator[Finding]:
    """Check the version of Python, and for the packages that the course uses."""
    from labkit.system import engine_command

    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "ok" if sys.version_info >= (3, 10) else "missing", version)
    needed = ("llama-cpp-python", "psutil", "huggingface-hub", "jupyterlab", "ipywidgets", "matplotlib", "gguf", "nbval")
    for name in needed:
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            fix = engine_command() if name == "llama-cpp-python" else install_command(name)
            yield Finding(name, "missing", "not installed", fix=fix)


def check_engine() -> Iterator[Finding]:
    """Check what llama.cpp was built with, and whether that suits this CPU (Linux says what a CPU has)."""
    from labkit.system import engine_build, rebuild_command, unused_instructions
    from labkit.system.build import cpu_flags

    try:
        build = engine_build()
    except LabkitError as error:
        yield Finding("llama.cpp", "missing", "cannot be loaded", fix=str(error))
        return
    if os.environ.get("LLAMA_CPP_LIB_PATH"):
        yield Finding("LLAMA_CPP_LIB_PATH", "ok", os.environ["LLAMA_CPP_LIB_PATH"])
    yield Finding("llama.cpp's CPU features", "ok", ", ".join(build.features) or "none reported")
    gpus = [f"{gpu.name} ({gpu.description}, {format_bytes(gpu.memory_free_bytes)} free)" for gpu in build.gpus]
    others = [device.name for device in build.devices if device not in build.gpus]
    cpu_only = f" ({build.why_no_gpu}; all layers stay on the CPU)" if build.why_no_gpu else ""
    yield Finding("devices", "ok", ", ".join([*gpus, *others]) + cpu_only)
    if build.has_rpc:
        yield Finding("RPC backend", "ok", "yes")
    else:
        yield Finding(
            "RPC backend", "note", "no", fix=f"to put layers on a second device, build with it: {rebuild_command()}"
        )
    yield from checks.check_openmp(build.features)
    yield from checks.check_amx(build.features, cpu_flags())
    yield from checks.check_instructions(unused_instructions(build.features))


def check_machine() -> Iterator[Finding]:
    """Check the cores and the RAM that this process may use, and what else runs."""
    from labkit.system import (
        available_ram_bytes,
        cpu_quota,
        logical_cores_available,
        performance_cores_available,
        physical_cores_available,
    )
    from labkit.system.cores import allowed_cpus, count_physical
    from labkit.system.huge_pages import huge_pages_setting

    cores = f"{physical_cores_available()} physical, {logical_cores_available()} logical"
    yield Finding("cores for this process", "ok", cores)
    yield from checks.check_quota(cpu_quota(), count_physical(allowed_cpus()))
    yield from checks.check_slow_cores(performance_cores_available(), physical_cores_available())
    free, programs = _watch_programs()
    yield from checks.check_load(free, len(allowed_cpus()), programs)
    ram = available_ram_bytes()
    tight = "close other programs: the course needs 2 GiB" if ram < 2 * 1024**3 else ""
    yield Finding("free RAM", "note" if tight else "ok", format_bytes(ram), fix=tight)
    yield from checks.check_huge_pages(huge_pages_setting())


def _watch_programs(limit: int = 3) -> tuple[float | None, list[tuple[str, float]]]:
    """Return how many CPUs are free, and the other programs that use most, as (name, CPUs)."""
    import psutil

    from labkit.system.load import CpuLoad

    load = CpuLoad()
    list(psutil.process_iter(["cpu_percent"]))  # starts the interval of each
    time.sleep(_LOOK_S)
    free = load.free_cores()
    used: defaultdict[str, float] = defaultdict(float)
    for process in psutil.process_iter(["name", "cpu_percent"]):
        if process.pid not in (0, os.getpid()):  # Windows counts idle time as process 0
            used[str(process.info["name"])] += (process.info["cpu_percent"] or 0.0) / 100
    return free, sorted((one for one in used.items() if one[1] >= 0.1), key=lambda one: -one[1])[:limit]


def check_models() -> Iterator[Finding]:
    """Check for the bundled model, and for the student's own."""
    from labkit.models import bundled_model_path, course_model

    try:
        path = bundled_model_path()
        yield Finding("bundled model", "ok", f"{path.name}, {format_bytes(path.stat().st_size)}")
    except LabkitError as error:
        yield Finding("bundled model", "missing", "not found", fix=str(error))
    if os.environ.get("LABKIT_MODEL"):
        try:
            yield Finding("LABKIT_MODEL", "ok", course_model().name)
        except LabkitError as error:
            yield Finding("LABKIT_MODEL", "missing", os.environ["LABKIT_MODEL"], fix=str(error))


def check_file(model: str | None, n_ctx: int) -> Iterator[Finding]:
    """Check a model's file: the named one, or else the one that the notebooks use.

    A named model that cannot be loaded is an error; one that the course needs is reported by `check_models`.
    """
    from labkit.gguf_file.preflight import preflight
    from labkit.model_info import read_model_header
    from labkit.models import course_model
    from labkit.system import engine_build

    with contextlib.nullcontext() if model else contextlib.suppress(LabkitError):
        header = read_model_header(model or course_model())
        preflight(header, vocabulary=False)
        if model:
            yield Finding("model", "ok", f"{header.source}, {format_bytes(header.file_size_bytes)}")
        features = None
        with contextlib.suppress(LabkitError):  # reported by check_engine
            features = engine_build().weight_features
        yield from checks.check_model_file(header, n_ctx, features)


def check_instructor_tools() -> Iterator[Finding]:
    """Check for what only instructors and developers need."""
    from labkit.grading.sandbox.start import require_sandbox

    try:
        require_sandbox()
        yield Finding("grading sandbox", "ok", "bubblewrap works")
    except LabkitError as error:
        yield Finding("grading sandbox", "note", "no", fix=str(error))
    found = shutil.which("chromium")
    yield Finding("chromium", "ok" if found else "note", "yes" if found else "no (only browser tests need it)")


CHECKS = (check_packages, check_engine, check_machine, check_models)
