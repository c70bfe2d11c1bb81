"""Serve 1, 4 and 16 clients: total tokens per second, time to first token, and a repeated prefix of 1,000 tokens.

Compares `labkit serve` with llama-cpp-python's server and llama.cpp's llama-server, if they are given, on the same model and
machine. llama-cpp-python's server needs more packages, in a folder so that its starlette is not labkit's:

    uv pip install --target FOLDER fastapi pydantic-settings sse-starlette 'starlette-context<0.4'
    uv run benchmarks/serving.py [--llama-cpp-python FOLDER] [--llama-server PATH] [--words 50]
    uv run benchmarks/serving.py --soak 3600     (seconds; does labkit's memory grow while clients come and go?)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import numpy as np
import psutil
from common import report

import labkit
from labkit.serve.load import some_text as prompt
from labkit.system import physical_cores_available

CLIENTS = (1, 4, 16)
seeds = itertools.count()  # no two prompts are the same
START_S = 60


@contextlib.contextmanager
def running(command: list[str], port: int, folder: str | None) -> Iterator[str]:
    """Start a server, with a folder of packages, and yield its address once it answers."""
    environment = {**os.environ, "PYTHONPATH": folder} if folder else None
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/v1/models").status_code == 200:
                    break
            time.sleep(0.2)
        else:
            raise SystemExit(f"{command[:4]} did not start")
        yield url
    finally:
        process.terminate()
        process.wait()


async def ask(client: httpx.AsyncClient, text: str, n_tokens: int) -> tuple[float, int]:
    """Return the time to the first token and the number of chunks with text, about one per token."""
    body = {"model": "any", "prompt": text, "max_tokens": n_tokens, "temperature": 0, "stream": True}
    started, first, count = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and (choices := json.loads(line[6:]).get("choices")) and choices[0]["text"]:
                count += 1
                first = first or time.perf_counter() - started
    return first, count


async def load(url: str, n_clients: int, n_requests: int, n_tokens: int, n_words: int = 50) -> tuple[float, float, float]:
    """Return tokens per second of all clients, and median and 95th percentile of the time to first token."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def one(_: int) -> list[tuple[float, int]]:
            return [await ask(client, prompt(n_words, next(seeds)), n_tokens) for _ in range(n_requests)]

        started = time.perf_counter()
        found = [each for many in await asyncio.gather(*map(one, range(n_clients))) for each in many]
        elapsed = time.perf_counter() - started
    times = [first for first, _ in found]
    return sum(count for _, count in found) / elapsed, float(np.median(times)), float(np.quantile(times, 0.95))


async def prefix(url: str) -> tuple[float, float]:
    """Return the time to first token of a 1,000-token prompt, and of one with the same prefix after others came between."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        shared = prompt(1000, next(seeds))
        cold, _ = await ask(client, shared + " one", 4)
        await asyncio.gather(*(ask(client, prompt(50, next(seeds)), 4) for _ in range(4)))
        warm, _ = await ask(client, shared + " two", 4)
    return cold, warm


async def soak(url: str, process: psutil.Process, seconds: float) -> list[tuple[int, int]]:
    """Ask for texts with 8 clients, of which every fourth leaves in the middle; return RSS and kept prefixes, 12 times."""
    end, rss = time.monotonic() + seconds, []
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def one(number: int) -> None:
            while time.monotonic() < end:
                text = prompt(random.Random(next(seeds)).randint(1, 300), next(seeds) % 50)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(ask(client, text, 32), 0.3 if number % 4 == 0 else None)

        async def watch() -> None:
            for _ in range(12):
                await asyncio.sleep(seconds / 12)
                lines = (await client.get("/metrics")).text.splitlines()
                kept = next(float(line.split()[1]) for line in lines if line.startswith("labkit_prefix_store_bytes "))
                rss.append((process.memory_info().rss, int(kept)))

        await asyncio.gather(watch(), *map(one, range(8)))
    return rss


def report_soak(seconds: float, model: str | None) -> None:
    """Run the soak; without the kept prefixes, the highest RSS of its second half must be within 2 % of the first half's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    path = model or str(labkit.bundled_model_path())
    command = [sys.executable, "-m", "labkit", "serve", path, "--cache", "64", "--port", str(port)]
    with running(command, port, None) as url:
        child = next(one for one in psutil.Process().children() if str(port) in one.cmdline())
        rss = asyncio.run(soak(url, child, seconds))
    own = [whole - kept for whole, kept in rss]  # one sample says little: requests come and go
    growth = max(own[6:]) / max(own[:6]) - 1
    rows = [
        (f"{seconds * (index + 1) / 12:.0f} s", f"{whole / 2**20:.0f} MiB", f"{kept / 2**20:.0f} MiB")
        for index, (whole, kept) in enumerate(rss)
    ]
    goals = {"without kept prefixes, the second half is at most 2 % higher": growth <= 0.02}
    report(
        "soak",
        ("after", "RSS", "of which kept prefixes"),
        rows,
        {"rss_and_kept_bytes": rss, "growth": growth, "goals": goals},
    )


def servers(n_parallel: int, folder: str | None, llama_server: str | None) -> dict[str, list[str]]:
    """Return the commands that start each server, with as many threads as there are physical cores."""
    path, n_threads = str(labkit.bundled_model_path()), str(physical_cores_available())
    python = [sys.executable, "-m"]
    options = ["--parallel", str(n_parallel), "--n-ctx", "2048", "--threads", n_threads, "--port"]
    found = {"labkit": [*python, "labkit", "serve", path, *options]}
    if folder:
        threads = ["--n_threads", n_threads, "--n_threads_batch", n_threads]
        options = ["--model", path, "--n_ctx", "2048", *threads, "--interrupt_requests", "false", "--port"]
        found["llama-cpp-python"] = [*python, "llama_cpp.server", *options]
    if llama_server:
        threads = ["-t", n_threads, "-tb", n_threads]
        options = ["-m", path, "-np", str(n_parallel), "-c", str(2048 * n_parallel), *threads, "--port"]
        found["llama-server"] = [llama_server, *options]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp-python", metavar="FOLDER", help="compare with its server; its packages are in FOLDER")
    parser.add_argument("--llama-server", metavar="PATH", help="compare with this program")
    parser.add_argument("--requests", type=int, default=2, help="of each client, one after another")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--words", type=int, default=50, help="of each prompt, about one token each")
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--model", metavar="PATH", help="of the soak; default: the bundled one")
    args = parser.parse_args()
    if args.soak:
        report_soak(args.soak, args.model)
    rows, results, totals = [], {}, {}
    for name, command in servers(max(CLIENTS), args.llama_cpp_python, args.llama_server).items():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        folder = args.llama_cpp_python if name == "llama-cpp-python" else None
        with running([*command, str(port)], port, folder) as url:
            asyncio.run(load(url, 1, 1, 8))  # warm up
            for n_clients in CLIENTS:
                rate, median, p95 = asyncio.run(load(url, n_clients, args.requests, args.tokens, args.words))
                rows.append((name, n_clients, f"{rate:.0f}", f"{median:.2f}", f"{p95:.2f}", ""))
                print(*rows[-1], file=sys.stderr)
                results[f"{name} {n_clients}"] = {"tokens_per_second": rate, "median_s": median, "p95_s": p95}
                totals[name, n_clients] = (rate, p95)
            cold, warm = asyncio.run(prefix(url))
            rows.append((name, "prefix", "", f"{cold:.2f} -> {warm:.3f}", "", f"{cold / warm:.1f} times sooner"))
            print(*rows[-1], file=sys.stderr)
            results[f"{name} prefix"] = {"cold_s": cold, "warm_s": warm}
    goals = {"prefix >= 5 times sooner": results["labkit prefix"]["cold_s"] >= 5 * results["labkit prefix"]["warm_s"]}
    most = max(CLIENTS)
    if ("llama-cpp-python", most) in totals:
        goals["16 clients >= 2 x llama-cpp-python"] = totals["labkit", most][0] >= 2 * totals["llama-cpp-python", most][0]
    if ("llama-server", most) in totals:
        goals["16 clients >= 0.95 x llama-server"] = totals["labkit", most][0] >= 0.95 * totals["llama-server", most][0]
        goals["16 clients: p95 <= 1.1 x llama-server"] = totals["labkit", most][1] <= 1.1 * totals["llama-server", most][1]
    headings = ("server", "clients", "tokens/s", "first token, s", "p95, s", "")
    report("serving", headings, rows, {**results, "goals": goals})


if __name__ == "__main__":
    main()
