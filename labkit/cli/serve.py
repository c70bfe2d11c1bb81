"""Serve a model to any program that speaks OpenAI's API, and a chat page in the browser.

Requests are computed together, and prefixes that they share once. Ctrl-C or SIGTERM finishes the running requests and ends
the server; a second one ends it at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import Any

import labkit
from labkit.cli.arguments import add_model
from labkit.cli.output import Output
from labkit.units import counted

HELP = "serve a model to OpenAI clients and the browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: only this machine)")
    parser.add_argument("--port", type=int, default=8080, metavar="N", help="port (8080); 0: any free one")
    parser.add_argument("--parallel", type=int, metavar="N", help="requests computed together; default: 4, if they fit")
    parser.add_argument("--n-ctx", type=int, default=2048, metavar="N", help="tokens per request, prompt and answer (2048)")
    parser.add_argument("--cache", type=int, default=256, metavar="MIB", help="memory for earlier requests' prefixes (256)")
    parser.add_argument("--max-waiting", type=int, default=64, metavar="N", help="waiting requests before status 429 (64)")
    parser.add_argument("--api-key", metavar="KEY", help="required from clients; default: LABKIT_API_KEY, if it is set")
    parser.add_argument("--embedding", action="store_true", help="serve embeddings instead of text")
    parser.add_argument("--threads", type=int, metavar="N", help="number of threads; default: all physical cores")
    parser.add_argument("--gpu-layers", type=int, default=0, metavar="N", help="layers on the GPU; -1: all (0)")
    parser.add_argument("--json", action="store_true", help="print JSON when the server is ready")


def run(args: argparse.Namespace, out: Output) -> int:
    signals: list[int] = []
    asked = threading.Event()

    def ask(number: int, _frame: Any) -> None:
        signals.append(number)
        asked.set()
        if len(signals) > 1:
            os._exit(1)  # whatever still runs is lost, as requested

    options: dict[str, Any] = {"embedding": True} if args.embedding else {}
    if args.embedding and not any(key.endswith(".pooling_type") for key in labkit.get_model_info(args.model).metadata):
        options["pooling_type"] = 1  # the mean of the tokens' vectors, as OpenAI's clients want one per text
    n_ctx = args.n_ctx if args.embedding else min(256, args.n_ctx)  # the slots have separate contexts
    with (
        labkit.load_model(args.model, n_ctx, args.threads, args.gpu_layers, **options) as model,
        labkit.serve_model(
            model,
            args.port,
            host=args.host,
            n_parallel=args.parallel,
            n_ctx=args.n_ctx,
            cache_mib=args.cache,
            max_waiting=args.max_waiting,
            api_key=args.api_key or os.environ.get("LABKIT_API_KEY") or None,
        ) as server,
    ):
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            out.say(f"Chat: {server.url}   API: {server.url}/v1   (Ctrl-C ends)")
            out.say(f"{counted(server.n_parallel, 'slot')} of {server.n_ctx:,} tokens")
            out.result({"url": server.url, "n_parallel": server.n_parallel, "n_ctx": server.n_ctx, "pid": os.getpid()})
            sys.stdout.flush()  # a parent process reads it while the server runs
            while not asked.wait(0.2):  # with a timeout, or Windows would not see Ctrl-C
                pass
            out.say("finishing the running requests…")
            server.stop()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return 0
