"""Find the fastest settings for a model on this machine, by measuring a few of the possible ones.

The result is stored: labkit.load_model(MODEL, settings="latency") uses it.
"""

from __future__ import annotations

import argparse

import labkit
from labkit.cli.arguments import add_model
from labkit.cli.output import Output
from labkit.units import format_bytes, format_duration

HELP = "find the fastest settings for a model on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--goal",
        default="latency",
        metavar="GOAL",
        help="latency (one text), throughput (many texts), or memory (the least for 10 %% more time); default: latency",
    )
    parser.add_argument("-p", "--n-prompt", type=int, default=512, metavar="N", help="tokens in your prompts (512)")
    parser.add_argument("-n", "--n-gen", type=int, default=128, metavar="N", help="tokens in your answers (128)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    found = labkit.tune(args.model, goal=args.goal, n_prompt=args.n_prompt, n_gen=args.n_gen, progress=not args.json)
    rows = [
        (
            f"{item.n_threads} / {item.n_threads_batch}",
            f"{'on' if item.flash_attn else 'off'}, {item.type_k}",
            f"{item.n_ubatch}",
            f"{item.n_parallel}",
            f"{found.n_prompt / item.prompt_s:,.1f}" if item.prompt_s else "",
            f"{item.n_parallel / item.step_s:,.1f}" if item.step_s else "",
        )
        for item in found.tried
    ]
    headings = ("threads", "flash attention, cache", "n_ubatch", "n_parallel", "prompt tokens/s", "tokens/s")
    title = f"{found.model}: {found.n_runs} of {found.n_possible} settings tried (threads: generation / prompt)"
    out.table(headings, rows, title=title)
    settings = ", ".join(f"{name}={value!r}" for name, value in found.for_loading.items())
    chosen = [
        ("settings", settings),
        *found.reasons.items(),
        ("memory", f"{format_bytes(found.memory_bytes)} with these lengths"),
        ("speedup", f"{found.speedup:.2f} times load_model's default, measured side by side"),
        ("time", format_duration(found.elapsed_s)),
    ]
    out.table(("", ""), chosen, title=f"best for {found.goal}")
    out.say(f"labkit.load_model(…, settings={found.goal!r}) uses them from now on.")
    out.result(found)
    return 0
