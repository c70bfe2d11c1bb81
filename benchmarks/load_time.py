"""How long loading takes: a file known to be sound, and one that is tried in a child process first.

``python benchmarks/load_time.py --rounds 15``: three ways to load the bundled model (or ``--model PATH``), in turn. "known"
finds the facts of the file in the cache; "first" reads and checks the file, as the first load of a known layout does;
"tried" also runs the trial, as the first load of an unknown one does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", type=Path, help="another model, such as a part of a split one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LABKIT_CACHE"] = folder
        measure(Path(folder), args.rounds, args.model)


def measure(cache: Path, rounds: int, model: Path | None) -> None:
    """Load in turn and print the medians."""
    import labkit
    from labkit.load_check import facts

    def load_s() -> float:
        facts._sound_file.cache_clear()
        started = time.perf_counter()
        labkit.load_model(model, n_ctx=512).close()
        return time.perf_counter() - started

    def first_s() -> float:
        for note in cache.rglob("*.json"):
            note.unlink()
        return load_s()

    def tried_s() -> float:
        with mock.patch("labkit.load_check.known_layout.has_known_layout", return_value=False):
            return first_s()

    load_s()
    ways: dict[str, Callable[[], float]] = {"first": first_s, "known": load_s, "tried": tried_s}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    median = {name: statistics.median(times) for name, times in seconds.items()}
    for name, value in median.items():
        print(f"{name:8} {value * 1000:7.1f} ms  {value / median['known']:.2f} x known  +{value - median['known']:.3f} s")


if __name__ == "__main__":
    main()
