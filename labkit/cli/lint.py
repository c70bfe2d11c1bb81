"""Find traps in how a model would be loaded, without loading it: what each costs, and the setting that mends it.

Exits with 1 when there is an error or a warning; notes alone are no reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from labkit.cli.arguments import CACHE_TYPES, add_model
from labkit.cli.output import Output
from labkit.units import format_bytes

if TYPE_CHECKING:
    from labkit.lint import LintFinding

HELP = "traps in how a model is loaded, and what mends them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_model(parser, by_header=True)
    parser.add_argument("--as-llama", action="store_true", help="look at what llama_cpp.Llama(MODEL) itself would do")
    parser.add_argument(
        "--n-ctx", type=int, metavar="N", help="tokens of context (2,048; 512 with --as-llama); 0: as trained"
    )
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads to compute with; all physical cores")
    parser.add_argument("--gpu-layers", type=int, default=0, metavar="N", help="layers on a device (0); -1: all")
    parser.add_argument("--batch", type=int, metavar="N", help="tokens that one call takes (512)")
    parser.add_argument("--ubatch", type=int, metavar="N", help="tokens computed at once (512)")
    parser.add_argument("--cache", choices=CACHE_TYPES, metavar="TYPE", help=f"the cache: {', '.join(CACHE_TYPES)} (f16)")
    parser.add_argument("--cache-k", choices=CACHE_TYPES, metavar="TYPE", help="the cache's keys alone")
    parser.add_argument("--cache-v", choices=CACHE_TYPES, metavar="TYPE", help="the cache's values alone")
    for name, what in (("mmap", "map the file"), ("flash", "use flash attention"), ("swa-full", "window layers cache all")):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=what)
    parser.add_argument("--logits-all", action="store_true", default=None, help="keep the logits of every token")
    parser.add_argument("--settings", metavar="WHAT", help="what `labkit tune` found: its goal, or its JSON file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    from labkit.lint import lint_settings

    report = lint_settings(
        args.model,
        n_ctx=args.n_ctx,
        n_threads=args.threads,
        n_gpu_layers=args.gpu_layers,
        settings=args.settings,
        as_llama=args.as_llama,
        **_options(args),
    )
    settings = report.settings
    out.say(
        f"{report.loader}({report.model!r}): n_ctx={settings.n_ctx:,}, n_threads={settings.n_threads}, "
        f"use_mmap={settings.use_mmap}, flash_attn={settings.flash_attn}, swa_full={settings.swa_full}"
    )
    if report.findings:
        out.table(("severity", "trap", "what it is, what it costs, what mends it"), _rows(report.findings))
    costs = [finding.cost_bytes for finding in report.findings if finding.cost_bytes and finding.severity != "note"]
    if report.is_clean:
        out.say("No trap." if not report.findings else "Nothing worse than a note.", style="bold")
    else:
        most = f"; the largest costs {format_bytes(max(costs))}" if costs else ""
        count = sum(finding.severity != "note" for finding in report.findings)
        out.say(f"{count} {'trap' if count == 1 else 'traps'}{most}.", style="bold")
    out.result({**report.to_dict(), "is_clean": report.is_clean, "changes": report.changes()})
    return 0 if report.is_clean else 1


def _rows(findings: Iterable[LintFinding]) -> Iterator[tuple[str, str, str]]:
    """Yield three rows a finding: five columns would be too narrow to read."""
    for finding in findings:
        yield finding.severity, finding.code, finding.trap
        yield "", "it costs", finding.cost
        yield "", "mend", finding.mend


def _options(args: argparse.Namespace) -> dict[str, Any]:
    given = {
        "n_batch": args.batch,
        "n_ubatch": args.ubatch,
        "type_k": args.cache_k or args.cache,
        "type_v": args.cache_v or args.cache,
        "use_mmap": args.mmap,
        "flash_attn": args.flash,
        "swa_full": args.swa_full,
        "logits_all": args.logits_all,
    }
    return {name: value for name, value in given.items() if value is not None}
