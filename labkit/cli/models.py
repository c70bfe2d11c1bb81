"""List well-known models and where they are on this machine, or download one.

The bundled model needs no network.
"""

from __future__ import annotations

import argparse

from labkit.cli.output import Output
from labkit.models import fetch_model, list_models
from labkit.units import format_bytes

HELP = "list well-known models, or download one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fetch", metavar="NAME", help="download a model: a name from the list, org/repo, org/repo:Q8_0 or its address"
    )
    parser.add_argument("--file", metavar="FILE", help="with --fetch: which file of the repository")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    if args.fetch:
        path = fetch_model(args.fetch, progress=not args.json, filename=args.file)
        out.say(f"{path}")
        out.result({"path": path})
        return 0
    entries = list_models()
    rows = [
        (
            entry.name,
            entry.parameters,
            format_bytes(entry.size_bytes),
            entry.license,
            "yes" if entry.path else "no",
            entry.note,
        )
        for entry in entries
    ]
    out.table(("name", "weights", "file", "licence", "local", "note"), rows)
    out.say("Load a local one with load_model(name); download another with: labkit models --fetch NAME")
    out.result(entries)
    return 0
