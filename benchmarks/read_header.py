"""Time to read a header: get_model_info vs. gguf.GGUFReader, on the bundled model and on a 262k vocabulary.

A GGUF header is mostly vocabulary: hundreds of thousands of strings, each with an 8-byte length. GGUFReader creates several
Python and NumPy objects per string. get_model_info skips over the strings (about 0.1 µs each) and reads each token once for
preflight (another 0.3 µs). So its time depends on the number of strings, not on the size of the weights.

Run: python benchmarks/read_header.py [--repeats 7]
Prints a table, then one line of JSON. Each measurement runs in a separate process, so that memory growth is not shared.
Goals: at least 50 times faster than GGUFReader on both files, with less than 20 MiB of memory growth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import median, report

from labkit.units import format_bytes, format_duration

N_TOKENS = 262_144
N_MERGES = 262_144


def build_large(path: Path) -> Path:
    """Write a model with one small tensor and a vocabulary of 262,144 tokens with scores, types and merges."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("262k vocabulary")
    writer.add_block_count(1)
    writer.add_context_length(8192)
    writer.add_embedding_length(32)
    writer.add_head_count(1)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{i:x}" for i in range(N_TOKENS)])
    writer.add_token_scores([-float(i) for i in range(N_TOKENS)])
    writer.add_token_types([1] * N_TOKENS)
    writer.add_token_merges([f"to ken{i:x}" for i in range(N_MERGES)])
    writer.add_tensor("token_embd.weight", np.zeros((N_TOKENS, 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def peak_bytes() -> int:
    """Return the peak RSS of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the parent's peak, which survives exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import psutil

    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss))


def measure(reader: str, path: str, repeats: int) -> dict[str, Any]:
    """Time one reader in this process: seconds per run, and growth of the peak RSS."""
    if reader == "labkit":
        from labkit.model_info import get_model_info as read
    else:
        from gguf import GGUFReader as read  # noqa: N813  # both readers get the same name
    before, seconds = peak_bytes(), []
    for _ in range(repeats):
        started = time.perf_counter()
        read(path)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "growth_bytes": peak_bytes() - before}


def in_child(reader: str, path: Path, repeats: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", reader, str(path), "--repeats", str(repeats)]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def compare(name: str, path: Path, repeats: int) -> dict[str, Any]:
    """Measure both readers on one file."""
    ours, theirs = in_child("labkit", path, repeats), in_child("gguf", path, 1)
    ours_s, theirs_s = median(ours["seconds"]), theirs["seconds"][0]
    return {
        "file": name,
        "file_bytes": path.stat().st_size,
        "labkit_s": round(ours_s, 5),
        "labkit_first_s": round(ours["seconds"][0], 5),
        "gguf_s": round(theirs_s, 3),
        "times_faster": round(theirs_s / ours_s, 1),
        "labkit_growth_bytes": ours["growth_bytes"],
        "gguf_growth_bytes": theirs["growth_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs of get_model_info; the median counts (default 7)")
    parser.add_argument("--child", nargs=2, metavar=("READER", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*arguments.child, arguments.repeats)))
        return
    from labkit.models import bundled_model_path

    with tempfile.TemporaryDirectory() as folder:
        large = build_large(Path(folder) / "large.gguf")
        files = {"bundled model": bundled_model_path(), "262k vocabulary": large}
        rows = [compare(name, path, arguments.repeats) for name, path in files.items()]
    headings = ("file", "get_model_info", "GGUFReader", "speed-up", "memory growth", "GGUFReader's")
    goals = {
        "50 times faster": all(row["times_faster"] >= 50 for row in rows),
        "under 20 MiB": all(row["labkit_growth_bytes"] < 20 * 2**20 for row in rows),
    }
    report("read_header", headings, [_cells(row) for row in rows], {"rows": rows, "goals": goals})


def _cells(row: dict[str, Any]) -> list[str]:
    grown, theirs = (format_bytes(row[key]) for key in ("labkit_growth_bytes", "gguf_growth_bytes"))
    times = format_duration(row["labkit_s"]), format_duration(row["gguf_s"])
    return [row["file"], *times, f"{row['times_faster']:.0f}x", grown, theirs]


if __name__ == "__main__":
    main()
