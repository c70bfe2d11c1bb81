"""predict_speed vs. llama.cpp: predicted over measured speed, for decode and prefill.

Each model is predicted, loaded and timed by llama-bench's protocol (random tokens, no sampling), twice in turn; the medians
are compared. The predicted limit is checked with a value that the prediction does not use: the bytes read per second, as a
share of the machine's bandwidth. If bandwidth is the limit, this share is large.

    uv run benchmarks/roofline.py [--model FILE …] [--repeats 2]

Without --model: the bundled model as F16, Q8_0 and Q4_0, and ghosts (synthetic) of 1B and 3B shapes, in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import warnings
from pathlib import Path
from typing import Any

from common import median, report

import labkit
from labkit.benchmark.llama_bench import time_engine

N_PROMPT, N_GEN = 256, 64


def models(folder: Path) -> list[Path]:
    """Create the models to compare."""
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the source is quantized already; only speed matters here
        for kind in ("F16", "Q8_0", "Q4_0"):
            made.append(folder / f"SmolLM2-135M.{kind}.gguf")
            labkit.quantize_model(labkit.bundled_model_path(), made[-1], kind)
    for shape in ("1B", "3B"):
        made.append(labkit.build_ghost_model(folder / f"llama-{shape}-synthetic.Q4_K_M.gguf", shape=shape))
    return made


def compare(path: Path, repeats: int) -> dict[str, Any]:
    """Predict and measure one model in turn."""
    predictions, decode, prompt = [], [], []
    for _ in range(repeats):
        predictions.append(labkit.predict_speed(path, depth=N_GEN // 2, n_prompt=N_PROMPT))
        with labkit.load_model(path, n_ctx=N_PROMPT + N_GEN) as model:
            time_engine(model, 32, 4)
            times = time_engine(model, N_PROMPT, N_GEN)
        decode.append(N_GEN / times.decode_s)
        prompt.append(N_PROMPT / times.prompt_s)
    measured = median(decode)
    share = measured * predictions[0].bytes_per_pass / median([one.read_bytes_per_second for one in predictions])
    return {
        "model": path.name,
        "predicted_tokens_per_second": median([one.decode_tokens_per_second for one in predictions]),
        "tokens_per_second": measured,
        "predicted_over_measured": median([one.decode_tokens_per_second for one in predictions]) / measured,
        "prompt_predicted_over_measured": median([one.prompt_tokens_per_second for one in predictions]) / median(prompt),
        "roofline_tokens_per_second": median([one.roofline_tokens_per_second for one in predictions]),
        "share_of_bandwidth": share,
        "limit": predictions[-1].limit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", help="GGUF files to compare instead")
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="labkit-roofline-")))
        runs = [compare(path, given.repeats) for path in given.model or models(folder)]
    rows = [
        (
            run["model"],
            f"{run['predicted_tokens_per_second']:.1f}",
            f"{run['tokens_per_second']:.1f}",
            f"{run['predicted_over_measured']:.2f}",
            f"{run['prompt_predicted_over_measured']:.2f}",
            f"{run['roofline_tokens_per_second']:.1f}",
            f"{run['share_of_bandwidth']:.0%}",
            run["limit"],
        )
        for run in runs
    ]
    goals = {"decode within 20 %": all(abs(run["predicted_over_measured"] - 1) <= 0.2 for run in runs)}
    rows += [(f"goal: {goal}", "met" if met else "MISSED", *[""] * 6) for goal, met in goals.items()]
    headings = ("model", "predicted", "measured", "ratio", "prefill ratio", "roofline", "of bandwidth", "limit")
    report("roofline", headings, rows, {"runs": runs, "goals": goals})


if __name__ == "__main__":
    main()
