"""Measure a 7B model on this CPU against 10 tokens per second: one stream, and the lab's ten prompts together.

Without --model, a ghost model of Llama-2-7B's shape is built once (4.1 GB in labkit's cache folder): real size and speed,
random weights, labelled as synthetic.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import labkit
from labkit.cli.output import Output

HELP = "measure a 7B model: over 10 tokens per second, or what limits it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FILE", help="your own quantized 7B model; default: a synthetic one is built")
    parser.add_argument("--target", type=float, default=10.0, metavar="N", help="tokens per second to pass (10)")
    parser.add_argument("-n", "--n-gen", type=int, default=32, metavar="N", help="tokens to generate per prompt (32)")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="number of threads; default: all physical cores")
    parser.add_argument("--png", metavar="FILE", help="also write the result card as a PNG")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    out.say("This takes a few minutes: loading the model, timing one prompt, then ten together.")
    result = labkit.run_milestone(
        args.model, target=args.target, max_tokens=args.n_gen, n_threads=args.threads, progress=not args.json
    )
    out.say()
    out.say(result.to_text())
    if args.png:
        out.say(f"card: {result.to_png(Path(args.png))}")
    out.result(result)
    return 0
