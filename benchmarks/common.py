"""Helpers for the benchmarks: a one-line machine description, medians, the report."""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from labkit.system import measure_system


def machine() -> str:
    """Describe the machine in a line."""
    profile = measure_system(bandwidth=False)
    vector = next((name for name in ("AVX512", "AVX2", "NEON") if name in profile.engine.features), "no vectors")
    engine = f"llama-cpp-python {profile.engine.version}"
    return f"{profile.cpu}, {profile.physical_cores} cores, {vector}, {platform.system()}, {engine}"


def median(values: Sequence[float]) -> float:
    """Return the median, which is robust against outliers."""
    return statistics.median(values)


def report(name: str, headings: Sequence[str], rows: Sequence[Sequence[object]], results: dict[str, Any]) -> None:
    """Print a table and one line of JSON; exit with 1 if a goal was missed."""
    table = Table(title=name, title_justify="left")
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*map(str, row))
    where = machine()
    console = Console(width=120)
    console.print(table)
    console.print(where, highlight=False)
    print(json.dumps({"benchmark": name, "machine": where, **results}))
    sys.exit(0 if all(results.get("goals", {}).values()) else 1)
