"""Measure how well a model predicts a text, by llama-perplexity's method.

With --reference, also compare its predictions with those of the model that it was quantized from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import labkit
from labkit.cli.arguments import add_model
from labkit.cli.output import Output
from labkit.errors import ArgumentError
from labkit.units import format_duration, format_rate

HELP = "measure how well a model predicts a text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--text", metavar="FILE", help="a text file in UTF-8; default: the lab's own text of 4,000 tokens")
    parser.add_argument("--n-ctx", type=int, default=512, metavar="N", help="tokens per window (512)")
    parser.add_argument("--stride", type=int, metavar="N", help="move the window by N tokens and score the last N of each")
    parser.add_argument("--reference", metavar="MODEL", help="compare with this model's predictions, ideally the F16 file's")
    parser.add_argument("--threads", type=int, metavar="N", help="number of threads; default: all physical cores")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    text = None if args.text is None else _read(Path(args.text))
    if args.reference is None:
        return _perplexity(args, text, out)
    if args.stride is not None:
        raise ArgumentError("--stride and --reference cannot be combined: leave one of them out")
    return _divergence(args, text, out)


def _perplexity(args: argparse.Namespace, text: str | None, out: Output) -> int:
    with labkit.load_model(args.model, n_ctx=256, n_threads=args.threads) as model:
        found = labkit.measure_perplexity(model, text, n_ctx=args.n_ctx, stride=args.stride, progress=not args.json)
        name = Path(model.model_path).name
    rows = [
        ("perplexity", f"{found.perplexity:.4f} ± {found.standard_error:.4f}"),
        ("scored", f"{found.n_scored:,} of {found.n_tokens:,} tokens in {found.n_windows} windows of {found.n_ctx:,}"),
        ("time", f"{format_duration(found.elapsed_s)}, {format_rate(found.tokens_per_second)}"),
    ]
    out.table(("", ""), rows, title=name)
    out.result({"model": name, **found})
    return 0


def _divergence(args: argparse.Namespace, text: str | None, out: Output) -> int:
    with (
        labkit.load_model(args.model, n_ctx=256, n_threads=args.threads) as model,
        labkit.load_model(args.reference, n_ctx=256, n_threads=args.threads) as reference,
    ):
        found = labkit.measure_divergence(model, reference, text, n_ctx=args.n_ctx, progress=not args.json)
        name, base = Path(model.model_path).name, Path(reference.model_path).name
    rows = [
        ("perplexity", f"{found.perplexity:.4f}; the reference's {found.reference_perplexity:.4f}"),
        ("KL divergence", f"{found.kl_divergence:.5f} ± {found.kl_standard_error:.5f} nats per token"),
        ("", f"median {found.kl_median:.5f}, 99 % below {found.kl_p99:.4f}, highest {found.kl_max:.3f}"),
        ("same top token", f"{found.top_token_agreement:.1%} of {found.n_scored:,} tokens"),
        ("true token's probability", f"mean change {found.delta_p_mean:+.2%}, RMS {found.delta_p_rms:.2%}"),
    ]
    out.table(("", ""), rows, title=f"{name} against {base}")
    out.result({"model": name, "reference": base, **found})
    return 0


def _read(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path} is not UTF-8 text (byte {error.start:,}): save it as UTF-8") from error
    except OSError as error:
        raise ArgumentError(f"{path} cannot be read: {error.strerror or error}") from error
