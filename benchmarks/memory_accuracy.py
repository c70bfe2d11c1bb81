"""Predicted vs. measured memory, and the common rule of thumb.

Each case runs in a separate process that loads the model and fills its context with random tokens; the measurement is its
peak RSS. The rule of thumb is "file size plus 2 * layers * width * context * 2 bytes of cache". The bundled model is real;
the others have real shapes and random weights (synthetic, built here in a temporary folder: 6.5 GB of disk).

    uv run benchmarks/memory_accuracy.py [--folder DIR]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import report

import labkit
from labkit.memory.measure import measure_memory
from labkit.units import format_bytes

GHOSTS = {
    "gemma3 270M Q8_0, 262k vocabulary": {"architecture": "gemma3", "shape": "270M", "quantization": "Q8_0"},
    "llama 3B Q4_K_M": {"architecture": "llama", "shape": "3B", "quantization": "Q4_K_M"},
    "llama 7B Q4_K_M": {"architecture": "llama", "shape": "7B", "quantization": "Q4_K_M"},
}
Q8: dict[str, Any] = {"type_k": "q8_0", "type_v": "q8_0"}
CASES: dict[str, tuple[tuple[int, dict[str, Any]], ...]] = {
    "SmolLM2-135M Q4_1 (bundled)": (
        (2048, {}),
        (4096, {}),
        (2048, {"use_mmap": False}),
        (2048, {"flash_attn": True}),
        (2048, Q8),
    ),
    "gemma3 270M Q8_0, 262k vocabulary": ((2048, {"use_mmap": True}), (4096, {"use_mmap": False}), (4096, Q8)),
    "llama 3B Q4_K_M": ((512, {"use_mmap": True}), (512, {"use_mmap": False}), (1024, Q8)),
    "llama 7B Q4_K_M": ((512, {"use_mmap": True}), (512, {"use_mmap": False}), (1024, Q8)),
}


def rule_of_thumb(path: Path, n_ctx: int) -> int:
    """Return the rule of thumb: file size, plus two 16-bit numbers per layer, token and unit of width."""
    info = labkit.get_model_info(path)
    return info.file_size_bytes + 2 * int(info.block_count or 0) * int(info.embedding_length or 0) * n_ctx * 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep the synthetic models here, and reuse existing ones")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        measure(folder or Path(temporary))


def measure(folder: Path) -> None:
    """Build missing models, measure all cases, and report."""
    paths = {next(iter(CASES)): labkit.bundled_model_path()}
    for name, shape in GHOSTS.items():
        paths[name] = folder / f"{shape['architecture']}-{shape['shape']}.{shape['quantization']}.gguf"
        if not paths[name].exists():
            labkit.build_ghost_model(paths[name], **shape)
    rows, results = [], []
    for name, cases in CASES.items():
        for n_ctx, options in cases:
            measured = measure_memory(paths[name], n_ctx, **options).peak_bytes
            thumb = rule_of_thumb(paths[name], n_ctx)
            predictions = {
                method: labkit.estimate_memory_usage(paths[name], n_ctx, method=method, **options).total_bytes
                for method in ("auto", "formula")
            }
            errors = {kind: size / measured - 1 for kind, size in {**predictions, "rule": thumb}.items()}
            settings = ", ".join(f"{key}={value}" for key, value in options.items() if key != "type_v")
            shown = [format_bytes(size) for size in (measured, predictions["auto"])]
            print(f"{name}, n_ctx {n_ctx:,}: {errors['auto']:+.1%}", file=sys.stderr)
            rows.append((name, f"{n_ctx:,} {settings}", *shown, *(f"{error:+.1%}" for error in errors.values())))
            results.append(
                {"model": name, "n_ctx": n_ctx, **options, "measured_bytes": measured, **predictions, "errors": errors}
            )
    worst = max(abs(row["errors"]["auto"]) for row in results)
    lowest = min(row["errors"]["auto"] for row in results)
    goals = {"within 5 %": worst <= 0.05, "never more than 2 % below the measurement": lowest >= -0.02}
    rows += [(f"goal: {goal}", "met" if met else "MISSED", "", "", "", "", "") for goal, met in goals.items()]
    headings = ("model", "context", "measured", "predicted", "error", "formula", "rule of thumb")
    report("memory_accuracy", headings, rows, {"results": results, "goals": goals})


if __name__ == "__main__":
    main()
