"""Lend this machine's GPU, or its CPU if it has no GPU, to models in other processes.

Use it on this machine or, with --allow-network, from another one:
  load_model(n_gpu_layers=15, devices=["127.0.0.1:50052"])

The connection has no password and no encryption. The device serves one process at a time; Ctrl-C stops it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from labkit.cli.output import Output

HELP = "lend this machine's GPU or CPU to a model in another process"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="serve", required=True)
    serve = actions.add_parser("serve", help="serve a device until Ctrl-C", description="Serve a device until Ctrl-C.")
    serve.add_argument(
        "--endpoint", default="127.0.0.1:50052", metavar="HOST:PORT", help="address (127.0.0.1:50052); port 0: any free one"
    )
    serve.add_argument("--threads", type=int, default=1, metavar="N", help="number of threads, if it is a CPU (1)")
    serve.add_argument("--allow-network", action="store_true", help="allow an address that other machines can reach")
    serve.add_argument("--json", action="store_true", help="print JSON when the device is ready")


def run(args: argparse.Namespace, out: Output) -> int:
    from labkit.devices.serve import describe, start_device

    started = start_device(args.endpoint, n_threads=args.threads, allow_network=args.allow_network)
    with started as device, contextlib.suppress(KeyboardInterrupt):
        out.say(describe(device))
        out.result({name: getattr(device, name) for name in ("endpoint", "kind", "description", "n_threads", "pid")})
        sys.stdout.flush()  # a parent process reads it while the device runs
        device.wait()
    return 0
