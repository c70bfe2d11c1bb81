"""Run every notebook and measure time and peak RSS, with the bundled model or one of your own; nothing is written.

RSS is the sum over the kernel and all processes that it starts, sampled 10 times per second. Pages shared by two processes
count twice, so this is an upper bound.

    uv run benchmarks/notebooks.py [--model FILE] [--busy N] [NOTEBOOK ...]

With ``--busy`` each notebook runs twice: alone, and next to N processes in separate sessions that each keep a core busy.
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
from busy_machine import others
from common import report
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
GOAL_S, GOAL_BYTES = 120, 2 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--model", help="a GGUF file, used as LABKIT_MODEL in the notebooks")
    parser.add_argument("--busy", type=int, default=0, help="also run next to this many busy processes")
    args = parser.parse_args()
    os.environ.pop("LABKIT_MODEL", None)
    if args.model:
        os.environ["LABKIT_MODEL"] = str(Path(args.model).resolve())
    paths = args.notebooks or sorted(NOTEBOOKS.glob("*.ipynb"))
    if args.busy:
        compare(paths, args.busy)
    found = [measure(path) for path in paths]
    rows = [(name, f"{seconds:.0f} s", f"{peak / 2**20:,.0f} MiB", fault or "none") for name, seconds, peak, fault in found]
    total = sum(seconds for _, seconds, _, _ in found)
    goals = {
        "no_error": not any(fault for *_, fault in found),
        "two_minutes": all(seconds < GOAL_S for _, seconds, _, _ in found),
        "two_gib": all(peak < GOAL_BYTES for _, _, peak, _ in found),
    }
    results = {"notebooks": [dict(zip(("name", "seconds", "peak_bytes", "error"), row, strict=True)) for row in found]}
    title = f"{len(found)} notebooks in {total:.0f} s, {'the bundled model' if not args.model else Path(args.model).name}"
    report(title, ("notebook", "time", "peak RSS", "error"), rows, {**results, "goals": goals})


def compare(paths: list[Path], n_busy: int) -> None:
    """Run each notebook alone and next to busy processes; print the ratios and exit."""
    rows, ratios = [], {}
    for path in paths:
        _, alone, _, fault = measure(path)
        with others(n_busy, own_session=True, burst=False):
            _, busy, _, busy_fault = measure(path)
        ratios[path.stem] = busy / alone
        rows.append((path.stem, f"{alone:.0f} s", f"{busy:.0f} s", f"{busy / alone:.2f}", fault or busy_fault or "none"))
    goals = {"no_error": all(row[-1] == "none" for row in rows), "twice": max(ratios.values()) <= 2}
    headings = ("notebook", "alone", f"next to {n_busy} busy", "ratio", "error")
    report(f"notebooks next to {n_busy} busy process(es)", headings, rows, {"ratios": ratios, "goals": goals})


def measure(path: Path) -> tuple[str, float, int, str]:
    """Return a notebook's name, seconds, peak RSS in bytes, and the error that stopped it."""
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
    """Yield a list whose only item is the peak RSS of all child processes together, in bytes."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
