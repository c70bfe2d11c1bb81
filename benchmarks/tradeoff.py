"""What each quantization of the bundled model costs and gives: size, perplexity, divergence and speed against F16, one run.

The bundled model is quantized itself (Q4_1), so its F16 copy is the reference: what the copy lost earlier is not seen.

    uv run benchmarks/tradeoff.py [--picture FILE.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import report

import labkit
from labkit.plots import plot_tradeoff
from labkit.quality.compare import HEADINGS, cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the table, too")
    parser.add_argument("--n-ctx", type=int, default=512, metavar="N", help="tokens a window (512)")
    arguments = parser.parse_args()
    table = labkit.compare_quantizations(n_ctx=arguments.n_ctx, progress=True)
    base = table.row("F16")
    rows = [
        (
            *cells(row)[:-2],  # all but the speeds, which stand here as ratios
            f"{row.prompt_tokens_per_second / base.prompt_tokens_per_second:.2f}",
            f"{row.decode_ratio:.2f}",
        )
        for row in table.rows
    ]
    if arguments.picture:
        plot_tradeoff(table).savefig(arguments.picture, dpi=120)
    report("tradeoff", (*HEADINGS[:-2], "prompt / F16", "decode / F16"), rows, table.to_dict())


if __name__ == "__main__":
    main()
