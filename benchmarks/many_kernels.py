"""RAM of students' Jupyter kernels that use one model file at the same time: per kernel, and shared between them (Linux).

Each kernel loads the bundled model as the notebooks do, generates a text and draws a picture. Private bytes belong to one
kernel; shared ones (Python's and llama.cpp's libraries, the mapped weights) are in RAM once for all.

    uv run benchmarks/many_kernels.py [--kernels 4]
"""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path

from common import report
from jupyter_client.manager import KernelManager

from labkit.units import format_bytes

CELLS = (
    "import labkit, matplotlib.pyplot",
    "model = labkit.load_model(labkit.course_model(), n_ctx=2048)",
    "text = labkit.generate_text(model, 'Once upon a time', 64)",
    "from labkit.plots import plot_memory; _ = plot_memory(labkit.estimate_memory_usage(method='formula'))",
)


def run(manager: KernelManager, code: str) -> None:
    """Run a cell and wait until it is done."""
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    answer = client.execute_interactive(code, timeout=300, output_hook=lambda _message: None)
    client.stop_channels()
    if answer["content"]["status"] != "ok":
        raise SystemExit(f"a cell failed: {answer['content']['evalue']}")


def memory(process: int) -> dict[str, int]:
    """Return a process's resident, proportional and private bytes."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB", rollup, re.MULTILINE)}
    return {"rss": sizes["Rss"], "pss": sizes["Pss"], "private": sizes["Private_Clean"] + sizes["Private_Dirty"]}


def measure(count: int) -> list[dict[str, int]]:
    """Start kernels, run the cells in each, and return the memory of each while all are alive."""
    with contextlib.ExitStack() as stack:
        kernels = []
        for _ in range(count):
            kernels.append(manager := KernelManager(kernel_name="python3"))
            manager.start_kernel()
            stack.callback(manager.shutdown_kernel, now=True)
        processes = []
        for manager in kernels:
            for cell in CELLS:
                run(manager, cell)
            processes.append(manager.provisioner.process.pid)
        return [memory(process) for process in processes]


def main() -> None:
    """Measure an idle kernel, one that works, and several together."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kernels", type=int, default=4, help="kernels at the same time (default: 4)")
    count = parser.parse_args().kernels
    (one,), several = measure(1), measure(count)
    together = sum(each["pss"] for each in several)
    more = (together - one["pss"]) // (count - 1) if count > 1 else 0
    rows = [
        ("one kernel, RSS", format_bytes(one["rss"])),
        (f"{count} kernels together (sum of PSS)", format_bytes(together)),
        ("each kernel after the first", format_bytes(more)),
        ("of which private", format_bytes(several[0]["private"])),
    ]
    report("RAM of kernels that share one model file", ("", "RAM"), rows, {"one": one, "several": several, "further": more})


if __name__ == "__main__":
    main()
