"""Estimate the memory a model needs with a full context, part by part, and whether it fits."""

from __future__ import annotations

import argparse

import labkit
from labkit.cli.arguments import add_model
from labkit.cli.output import Output
from labkit.kv_cache import CACHE_TYPES
from labkit.units import format_bytes

HELP = "estimate the memory a model needs, and whether it fits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, by_header=True)
    parser.add_argument("--n-ctx", type=int, default=2048, metavar="N", help="context size in tokens (2,048); 0: as trained")
    parser.add_argument("--n-seq", type=int, default=1, metavar="N", help="sequences decoded together (1)")
    parser.add_argument("--gpu-layers", type=int, default=0, metavar="N", help="layers on the GPU (0); -1: all")
    parser.add_argument(
        "--cache", default="f16", choices=CACHE_TYPES, metavar="TYPE", help=f"KV cache type: {', '.join(CACHE_TYPES)} (f16)"
    )
    parser.add_argument("--ubatch", type=int, default=512, metavar="N", help="tokens computed at once, n_ubatch (512)")
    mapped = parser.add_mutually_exclusive_group()
    mapped.add_argument("--mmap", action="store_true", default=None, help="map the file; default: depends on the CPU")
    mapped.add_argument("--no-mmap", dest="mmap", action="store_false", help="read the file into memory")
    parser.add_argument(
        "--method", default="auto", choices=("auto", "formula", "simulate"), help="formula, dry run, or both"
    )
    parser.add_argument("--ram", metavar="SIZE", help="assume this much RAM, such as 8GiB; default: this machine's")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    info = labkit.get_model_info(args.model)
    estimate = labkit.estimate_memory_usage(
        args.model,
        args.n_ctx,
        n_gpu_layers=args.gpu_layers,
        type_k=args.cache,
        type_v=args.cache,
        n_ubatch=args.ubatch,
        n_seq=args.n_seq,
        use_mmap=args.mmap,
        method=args.method,
    )
    advice = labkit.recommend_settings(args.model, ram=args.ram)
    if args.ram is not None:
        room = advice.ram_bytes
        estimate = estimate.replace(available_bytes=room, fits=estimate.ram_bytes <= room)
    rows = [
        (part.name, part.device, format_bytes(part.resident_bytes), part.backing, part.formula) for part in estimate.parts
    ]
    rows += [("total", device, format_bytes(size), "", "") for device, size in estimate.by_device().items()]
    title = f"{info.name} ({info.quantization}), n_ctx {estimate.n_ctx:,}: {estimate.layout}"
    out.table(("part", "device", "bytes", "backing", "formula"), rows, title=title)
    for sentence in estimate.assumptions[1:]:
        out.say(f"- {sentence}")
    out.say()
    out.say(estimate.verdict, style="bold")
    settings = ", ".join(f"{name}={value!r}" for name, value in advice.as_arguments().items())
    out.say(f"largest settings that fit: load_model(…, {settings})" if advice.fits else advice.reasons[-1])
    out.result({"model": info.path, **estimate.to_dict(), "verdict": estimate.verdict, "recommended": advice.as_arguments()})
    return 0
