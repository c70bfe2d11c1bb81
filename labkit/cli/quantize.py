"""Write a quantized copy of a model, ideally from an F16, BF16 or F32 file.

The target is written completely or not at all; Ctrl-C leaves no file behind.
"""

from __future__ import annotations

import argparse

from labkit.cli.output import Output
from labkit.gguf_file.formats import FILE_TYPES, NOT_WRITABLE, tensor_type
from labkit.quantize import QuantizationResult, quantize_model
from labkit.units import format_bytes, format_duration

HELP = "write a smaller copy of a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="the GGUF file to read")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="the GGUF file to write")
    parser.add_argument("--type", default="Q4_K_M", metavar="NAME", help="a file type from --list (Q4_K_M)")
    parser.add_argument("--threads", type=int, metavar="N", help="number of threads; default: all physical cores")
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    parser.add_argument("--list", action="store_true", help="list the file types and exit")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace, out: Output) -> int:
    if args.list:
        return _list_types(out)
    if args.source is None or args.target is None:
        args.usage_error("give SOURCE and TARGET, or --list")
    result = quantize_model(
        args.source, args.target, args.type, n_threads=args.threads, progress=not args.json, overwrite=args.overwrite
    )
    _show(result, [warning for warning in result.warnings if warning not in out.warned], out)
    out.result(result)
    return 0


def _show(result: QuantizationResult, notes: list[str], out: Output) -> None:
    ratio = result.target_bytes / max(1, result.source_bytes)
    rows = [
        ("written", str(result.target)),
        ("type", f"{result.quantization}, {result.bits_per_weight:.2f} bits per weight"),
        ("size", f"{format_bytes(result.source_bytes)} to {format_bytes(result.target_bytes)}, {ratio:.1%} of the source"),
        ("time", format_duration(result.elapsed_s)),
    ]
    out.table(("", ""), rows)
    types = [(name, f"{count:,}", format_bytes(size)) for name, (count, size) in result.tensor_types.items()]
    out.table(("type", "tensors", "bytes"), types, right=(1, 2))
    if result.fallbacks:
        fallbacks = [(fallback.tensor, fallback.wanted, fallback.given) for fallback in result.fallbacks]
        out.table(("tensor with a fallback type", "intended", "used"), fallbacks)
    for note in notes:
        out.say(f"note: {note}")


def _list_types(out: Output) -> int:
    kinds = [
        {
            "name": kind.name,
            "tensor_type": kind.tensor_type,
            "bits_per_weight": tensor_type(kind.tensor_type).bits_per_weight,
            "quality": kind.quality,
            "speed": kind.speed,
        }
        for kind in sorted(FILE_TYPES.values(), key=lambda kind: -tensor_type(kind.tensor_type).bits_per_weight)
        if kind.name not in NOT_WRITABLE
    ]
    rows = [
        (kind["name"], kind["tensor_type"], f"{kind['bits_per_weight']:.3f}", kind["quality"] or "", kind["speed"] or "")
        for kind in kinds
    ]
    out.table(("name", "tensors", "bits/weight", "quality", "speed"), rows, right=(2,))
    out.say("tensors: the type of most weights. Types that need an importance matrix are not listed.")
    out.result(kinds)
    return 0
