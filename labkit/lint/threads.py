"""Traps of speed: threads, what else runs, and an engine that does not know this CPU or has no GPU."""

from __future__ import annotations

from collections.abc import Iterator

from labkit.lint.case import Case
from labkit.lint.records import LintFinding
from labkit.units import format_bytes

__all__ = ["find_busy", "find_few_threads", "find_many_threads", "find_missing_gpu", "find_unused_instructions"]

_UNMEASURED = "not measured here"


def find_few_threads(case: Case) -> Iterator[LintFinding]:
    """Find fewer threads than there are fast cores for them."""
    threads, cores = case.settings.n_threads, case.machine.performance
    if threads >= cores:
        return
    said = "1 thread computes" if threads == 1 else f"{threads:,} threads compute"
    chosen = ", which load_model takes by itself" if cores == case.machine.physical else ""
    weights = format_bytes(case.estimate.weights_bytes)
    yield LintFinding(
        "few-threads",
        "warning" if 2 * threads <= cores else "note",
        f"{said}, and this process may use {cores:,} physical cores",
        f"prompts take up to {cores / threads:.1f} times as long, and fewer cores read the {weights} of weights behind "
        f"each token; {_UNMEASURED}",
        f"n_threads={cores}{chosen}",
        change={"n_threads": cores},
    )


def find_many_threads(case: Case) -> Iterator[LintFinding]:
    """Find more threads than cores: those that wait for a core hold up all others at the end of every layer."""
    settings, machine = case.settings, case.machine
    for name, threads in (("n_threads", settings.n_threads), ("n_threads_batch", settings.n_threads_batch)):
        if name == "n_threads_batch" and threads == settings.n_threads:
            return
        change = {name: machine.physical}
        if threads > machine.logical:
            limit = f" by its container's quota of {machine.quota:g} CPUs" if machine.quota is not None else ""
            yield LintFinding(
                "threads-over-limit",
                "warning",
                f"{name}={threads:,}, and this process may run {machine.logical:,} at once{limit}",
                "every layer ends where all threads meet, so each waits there for those that got no core: often many times "
                f"slower than with fewer; {_UNMEASURED}",
                f"{name}={machine.physical}",
                change=change,
            )
        elif threads > machine.physical:
            yield LintFinding(
                "threads-over-cores",
                "warning" if name == "n_threads" else "note",
                f"{name}={threads:,} on {machine.physical:,} physical cores: two threads share one core's arithmetic units",
                f"rarely faster, often slower; {_UNMEASURED}",
                f"{name}={machine.physical}",
                change=change,
            )


def find_busy(case: Case) -> Iterator[LintFinding]:
    """Find threads of OpenMP that spin while they wait, on cores that others want."""
    machine = case.machine
    if "OPENMP" not in machine.build.features or machine.wait_policy.upper() == "PASSIVE":
        return
    if machine.load is None or machine.load <= machine.n_cpus:
        return
    yield LintFinding(
        "busy-machine",
        "note",
        f"the machine is busy (load {machine.load:.1f} on {machine.n_cpus:,} CPUs), and llama.cpp's threads (OpenMP) spin "
        "while they wait for one another",
        f"their spinning takes time from what else runs, and from each other; {_UNMEASURED}",
        "wait until the machine is idle, or set OMP_WAIT_POLICY=passive in the environment before Python starts",
    )


def find_unused_instructions(case: Case) -> Iterator[LintFinding]:
    """Find an engine that was built for an older CPU."""
    if case.machine.unused:
        names = ", ".join(case.machine.unused)
        yield LintFinding(
            "unused-instructions",
            "warning",
            f"this CPU has {names}, and the installed llama.cpp was built without",
            f"prompts above all are slower than they could be; {_UNMEASURED}",
            "build it on this machine: pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python",
        )


def find_missing_gpu(case: Case) -> Iterator[LintFinding]:
    """Find layers that were asked onto a GPU that the engine cannot use."""
    if case.n_gpu_layers == 0 or case.devices or case.machine.build.has_gpu:
        return
    silently = ", and Llama does not say so" if case.as_llama else ""
    yield LintFinding(
        "no-gpu",
        "warning",
        f"n_gpu_layers={case.n_gpu_layers}, and this llama.cpp has no GPU to put layers on{silently}",
        "everything runs on the CPU, at the CPU's speed",
        "n_gpu_layers=0; or a llama-cpp-python built for your GPU; or devices=[…] (labkit device serve)",
        change={"n_gpu_layers": 0},
    )
