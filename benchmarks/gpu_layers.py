"""Layers on a GPU: speed and memory from no layer to all of them, as ratios to ``n_gpu_layers=0`` in the same run.

Each measurement has its own process: it loads the model, fills the context with random tokens, and times prompt processing
and decoding by llama-bench's protocol. Numbers of layers take turns; speeds are medians. "GPU, measured" is the memory that
the driver reports as used, from before the load to a full context. RAM is the peak RSS of the process, which includes pinned
memory and the GPU driver's own. Predictions are those of `estimate_memory_usage`.

The model has a real shape and random weights (synthetic, built here in a temporary folder), unless you give a file. A
machine without a GPU that llama.cpp can use has nothing to measure.

    uv run benchmarks/gpu_layers.py [--shape 7B] [--model FILE] [--folder DIR] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import machine, median

import labkit
from labkit.system import engine_build
from labkit.tables import Table
from labkit.units import format_bytes

N_CTX, N_PROMPT, N_GEN = 2048, 512, 64
CHILD = """
import json, sys
import labkit, numpy as np
from labkit.benchmark.llama_bench import time_engine
from labkit.engine.generate import run_request
from labkit.engine.generation import GenerationRequest
from labkit.engine.sampling_settings import check_sampling
from labkit.system import engine_build, peak_resident_bytes

def free():
    return sum(device.memory_free_bytes for device in engine_build().devices if device.kind in ("GPU", "IGPU"))

path, n_ctx, n_prompt, n_gen, options = json.loads(sys.argv[1])
before = free()
model = labkit.load_model(path, n_ctx, **options)
with model.vocabulary() as vocabulary:
    tokens = np.random.default_rng(0).integers(vocabulary.n_vocab, size=n_ctx - 1).tolist()
run_request(model, GenerationRequest(tokens, 1, check_sampling(0, {})))
memory = {"gpu_bytes": before - free(), "ram_bytes": peak_resident_bytes()}
time_engine(model, n_prompt, 4)
times = time_engine(model, n_prompt, n_gen)
model.close()
kept = before - free()
speed = {"prefill": n_prompt / times.prompt_s, "decode": n_gen / times.decode_s}
print(json.dumps({**memory, **speed, "kept_bytes": kept, "flash_attn": model.settings.flash_attn}))
"""


def measure(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Measure one load in a separate process."""
    request = json.dumps([str(path), N_CTX, N_PROMPT, N_GEN, options])
    child = subprocess.run([sys.executable, "-c", CHILD, request], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def cases(path: Path) -> dict[str, dict[str, Any]]:
    """Return the loads to compare: none, a quarter, half, three quarters and all of the layers."""
    everything = int(labkit.get_model_info(path).block_count or 0) + 1  # the output counts as a layer
    numbers = dict.fromkeys((0, everything // 4, everything // 2, everything * 3 // 4, everything))
    loads: dict[str, dict[str, Any]] = {f"{n} of {everything}": {"n_gpu_layers": n} for n in numbers}
    loads[f"{everything} of {everything}, flash attention off"] = {"n_gpu_layers": everything, "flash_attn": False}
    return loads


def compare(path: Path, repeats: int) -> list[dict[str, Any]]:
    """Measure all cases in turn; return medians, ratios to the first case, and predicted memory."""
    loads = cases(path)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in loads}
    for number in range(repeats):
        for name, options in loads.items():
            runs[name].append(measure(path, options))
            print(f"round {number + 1}: {name}, {runs[name][-1]['decode']:.1f} tokens/s", file=sys.stderr)
    results: list[dict[str, Any]] = []
    for name, options in loads.items():
        result = {key: median([run[key] for run in runs[name]]) for key in runs[name][0]}
        estimate = labkit.estimate_memory_usage(path, N_CTX, **options)
        first = results[0] if results else result
        results.append(
            {
                "layers": name,
                **options,
                **result,
                "decode_ratio": result["decode"] / first["decode"],
                "prefill_ratio": result["prefill"] / first["prefill"],
                "predicted_gpu_bytes": estimate.gpu_bytes,
                "predicted_ram_bytes": estimate.ram_bytes,
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="7B", help="shape of the synthetic llama in Q4_K_M: 1B, 3B, 7B, …")
    parser.add_argument("--model", type=Path, help="a GGUF file to measure instead")
    parser.add_argument("--folder", type=Path, help="keep the synthetic model here, and use it if it is there")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    gpus = [device for device in engine_build().devices if device.kind in ("GPU", "IGPU")]
    if not gpus:
        sys.exit("llama.cpp has no GPU here: install a llama-cpp-python built for your GPU, and see 'labkit doctor'")
    with tempfile.TemporaryDirectory() as temporary:
        path = given.model or (given.folder or Path(temporary)) / f"llama-{given.shape}-synthetic.Q4_K_M.gguf"
        if not path.exists():
            labkit.build_ghost_model(path, shape=given.shape)
        results = compare(path, given.repeats)
    rows = [
        (
            row["layers"],
            f"{row['decode']:,.1f}",
            f"{row['decode_ratio']:.2f}",
            f"{row['prefill']:,.0f}",
            f"{row['prefill_ratio']:.2f}",
            *(
                format_bytes(int(row[f"{predicted}{place}_bytes"]))
                for place in ("gpu", "ram")
                for predicted in ("", "predicted_")
            ),
        )
        for row in results
    ]
    headings = (
        "layers on the GPU", "decode (tokens/s)", "ratio", "prefill (tokens/s)", "ratio",
        "GPU, measured", "GPU, predicted", "RAM, measured", "RAM, predicted",
    )  # fmt: skip
    where = f"{', '.join(gpu.description for gpu in gpus)}; {machine()}"
    print(f"{path.name}, n_ctx {N_CTX:,}, {N_PROMPT} tokens read, {N_GEN} generated\n{where}\n")
    print(Table("", headings, rows).to_markdown(right=range(1, len(headings))))
    print(json.dumps({"benchmark": "gpu_layers", "model": path.name, "machine": where, "results": results}))


if __name__ == "__main__":
    main()
