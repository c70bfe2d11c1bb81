"""Trade-off of the bundled model's quantizations: size, perplexity, divergence and speed relative to F16, in one run.

The bundled model is itself quantized (Q4_1), so the reference is its F16 copy, and earlier losses are not measured.

    uv run benchmarks/tradeoff.py [--picture FILE.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import report

import labkit
from labkit.plots import plot_tradeoff
from labkit.quality.comparison import HEADINGS, cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw the table")
    parser.add_argument("--n-ctx", type=int, default=512, metavar="N", help="tokens per window (512)")
    arguments = parser.parse_args()
    table = labkit.compare_quantizations(n_ctx=arguments.n_ctx, progress=True)
    base = table.row("F16")
    rows = [
        (
            *cells(row)[:-2],  # without the speeds, which are ratios here
            f"{row.prompt_tokens_per_second / base.prompt_tokens_per_second:.2f}",
            f"{row.decode_ratio:.2f}",
        )
        for row in table.rows
    ]
    if arguments.picture:
        plot_tradeoff(table).savefig(arguments.picture, dpi=120)
    report("tradeoff", (*HEADINGS[:-2], "prefill / F16", "decode / F16"), rows, table.to_dict())


if __name__ == "__main__":
    main()
