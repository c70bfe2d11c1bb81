"""Every notebook from top to bottom: seconds and peak memory, with the bundled model or one of your own; nothing is written.

Memory is that of the kernel and of all processes that it starts, resident, sampled 10 times a second; pages that two
processes share count twice, so the truth is below it.

    uv run benchmarks/notebooks.py [--model FILE] [NOTEBOOK ...]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
from common import report
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
GOAL_S, GOAL_BYTES = 120, 2 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--model", help="a GGUF file: LABKIT_MODEL in the notebooks")
    args = parser.parse_args()
    os.environ.pop("LABKIT_MODEL", None)
    if args.model:
        os.environ["LABKIT_MODEL"] = str(Path(args.model).resolve())
    found = [measure(path) for path in args.notebooks or sorted(NOTEBOOKS.glob("*.ipynb"))]
    rows = [(name, f"{seconds:.0f} s", f"{peak / 2**20:,.0f} MiB", fault or "none") for name, seconds, peak, fault in found]
    total = sum(seconds for _, seconds, _, _ in found)
    goals = {
        "no_error": not any(fault for *_, fault in found),
        "two_minutes": all(seconds < GOAL_S for _, seconds, _, _ in found),
        "two_gib": all(peak < GOAL_BYTES for _, _, peak, _ in found),
    }
    results = {"notebooks": [dict(zip(("name", "seconds", "peak_bytes", "error"), row, strict=True)) for row in found]}
    title = f"{len(found)} notebooks in {total:.0f} s, {'the bundled model' if not args.model else Path(args.model).name}"
    report(title, ("notebook", "time", "peak memory", "error"), rows, {**results, "goals": goals})


def measure(path: Path) -> tuple[str, float, int, str]:
    """Return a notebook's name, seconds, peak bytes, and the error that ended it."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    fault, begun = "", time.perf_counter()
    with watching() as peak:
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            fault = " ".join(str(error).split())[-200:]
    print(f"{path.stem}: {time.perf_counter() - begun:.0f} s {fault}", file=sys.stderr, flush=True)
    return path.stem, time.perf_counter() - begun, peak[0], fault


@contextlib.contextmanager
def watching() -> Iterator[list[int]]:
    """Give a list whose one number is the most bytes that the processes below this one held."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            most[0] = max(most[0], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
