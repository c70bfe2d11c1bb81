"""Speed next to other programs: labkit's choice of threads vs. every fixed number of threads and `llama_cpp.Llama`.

Other programs are Python loops that keep a core busy: none, one or two; in the session of this script, or each in a
separate session, which Linux schedules as a group (like a browser); steadily, or half a second on and half a second off.
Each side is a process that keeps its model loaded. Sides alternate; a run reads a prompt of 128 tokens and generates up to
96, for at most 2 seconds; next to bursts, which may hit a prompt or not, it reads it four times. Ratios are of medians.

    uv run benchmarks/busy_machine.py [--repeats 5] [--model bundled|1B] [--situations bursts]

Finally, a core becomes busy and free again during one generation, to count the tokens until the threads adapt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import median, report

import labkit
from labkit.system import physical_cores_available

N_PROMPT, N_TOKENS, LIMIT_S = 128, 96, 2.0
TEXT = "The story goes on: " + "and on " * 200
# A loop, switched on and off by lines on stdin; "burst" pauses it every other half second.
LOOP = """
import sys, threading, time
busy = threading.Event()
def listen():
    for line in sys.stdin:
        busy.set() if line.strip() == "on" else busy.clear()
    import os; os._exit(0)
threading.Thread(target=listen, daemon=True).start()
while True:
    busy.wait()
    if sys.argv[1] == "burst" and int(time.time() * 2) % 2:
        time.sleep(0.01)
    else:
        sum(range(2000))
"""
SITUATIONS = {
    "nothing else runs": (0, False, False),
    "1 busy process, same session": (1, False, False),
    "1 busy process, own session": (1, True, False),
    "2 busy processes, same session": (2, False, False),
    "2 busy processes, own sessions": (2, True, False),
    "1 process in bursts, same session": (1, False, True),
    "1 process in bursts, own session": (1, True, True),
}


class Others:
    """Programs that keep cores busy while switched on."""

    def __init__(self, n: int, *, own_session: bool, burst: bool) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", LOOP, "burst" if burst else "steady"],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=own_session,
            )
            for _ in range(n)
        ]
        time.sleep(0.3 if n else 0.0)

    def switch(self, state: str) -> None:
        """Switch them ``"on"`` or ``"off"``."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(state + "\n")
            process.stdin.flush()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def others(n: int, *, own_session: bool, burst: bool) -> Iterator[Others]:
    programs = Others(n, own_session=own_session, burst=burst)
    programs.switch("on")
    try:
        yield programs
    finally:
        programs.end()


class Side:
    """One side of the comparison, in a process that keeps its model loaded."""

    def __init__(self, name: str, model: str) -> None:
        self.name = name
        command = [sys.executable, __file__, "--side", name, "--model", model]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask(1)  # a first run loads everything

    def ask(self, n_reads: int) -> dict[str, Any]:
        """Run once; return the measurements."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{n_reads}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def by_labkit(model: Any, n_reads: int) -> dict[str, Any]:
    """Read the prompt ``n_reads`` times and generate with labkit."""
    prompt = model.tokenize(TEXT.encode())[:N_PROMPT]
    text = model.detokenize(prompt).decode()
    speeds = []
    for _ in range(n_reads - 1):
        model.reset()
        labkit.generate_text(model, text, 1, temperature=0)
        speeds.append(model.last_generation.prompt_tokens_per_second)
    model.reset()
    with labkit.stream_text(model, text, N_TOKENS, temperature=0) as stream:
        first = None
        for _ in stream:
            first = first or time.perf_counter()  # as for Llama, the prompt does not count
            if time.perf_counter() - first > LIMIT_S:
                model.cancel()
    done = model.last_generation
    return {
        "decode": done.decode_tokens_per_second,
        "prefill": statistics.harmonic_mean([*speeds, done.prompt_tokens_per_second]),
        "threads": [done.n_threads_batch, done.n_threads],
    }


def by_llama(llama: Any, n_reads: int) -> dict[str, Any]:
    """Read the prompt ``n_reads`` times and generate with Llama's own eval and sample."""
    prompt = llama.tokenize(TEXT.encode())[:N_PROMPT]
    begun = time.perf_counter()
    for _ in range(n_reads):
        llama.reset()
        llama.eval(prompt)
        token = llama.sample(temp=0.0)
    first = time.perf_counter()
    count = 0
    while count < N_TOKENS and time.perf_counter() - first < LIMIT_S:
        llama.eval([token])
        token = llama.sample(temp=0.0)
        count += 1
    return {
        "decode": count / (time.perf_counter() - first),
        "prefill": n_reads * len(prompt) / (first - begun),
        "threads": [llama.n_threads_batch, llama.n_threads],
    }


def serve(name: str, path: str) -> None:
    """Run one side: measure once per line on stdin, which is the number of times to read the prompt."""
    if name.startswith("llama"):
        import llama_cpp

        n = physical_cores_available() if name == "llama all" else None
        llama = llama_cpp.Llama(path, n_ctx=2048, n_threads=n, n_threads_batch=n, verbose=False)
        run = lambda n_reads: by_llama(llama, n_reads)  # noqa: E731
    else:
        pinned = None if name == "labkit" else int(name.split()[-1])
        model = labkit.load_model(path, n_ctx=2048, n_threads=pinned)
        run = lambda n_reads: by_labkit(model, n_reads)  # noqa: E731
    for line in sys.stdin:
        print(json.dumps(run(int(line))), flush=True)


def compare(sides: list[Side], repeats: int, n_reads: int) -> dict[str, dict[str, float]]:
    """Return the median speeds of each side; sides alternate."""
    found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for repeat in range(repeats):
        for side in sides[repeat % len(sides) :] + sides[: repeat % len(sides)]:
            found[side.name].append(side.ask(n_reads))
    return {
        name: {part: median([run[part] for run in runs]) for part in ("decode", "prefill")} for name, runs in found.items()
    }


def answer_to_change(path: str, own_session: bool) -> dict[str, Any]:
    """Return when a core becomes busy and free during a generation, and the threads used."""
    with labkit.load_model(path, n_ctx=2048) as model, others(1, own_session=own_session, burst=False) as programs:
        programs.switch("off")
        time.sleep(0.2)
        labkit.generate_text(model, "Once upon a time", 100, temperature=0)
        changes = {}
        with labkit.stream_text(model, TEXT[:60], 600, temperature=0) as stream:
            for count, _ in enumerate(stream, 1):
                if count == 150:
                    programs.switch("on")
                    changes["busy"] = count
                elif count == 300:
                    programs.switch("off")
                    changes["free"] = count
        used = model.last_generation.n_threads
    return {"changes": changes, "threads": used}


def first_change(used: Any, after: int, wanted: int) -> int | None:
    """Return the number of tokens after token ``after`` until ``wanted`` threads compute; None if they never do."""
    at = 0
    for n_threads, n_tokens in used if isinstance(used, (list, tuple)) else ((used, 10**9),):
        if at + n_tokens > after and n_threads == wanted:
            return max(0, at - after)
        at += n_tokens
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="bundled", help="bundled, or 1B: a synthetic model of that shape (0.7 GB)")
    parser.add_argument("--situations", default="", help="only those with this text in their names, such as bursts")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(labkit.bundled_model_path())
        if arguments.model != "bundled":
            path = str(labkit.build_ghost_model(Path(folder) / "ghost.gguf", shape=arguments.model, quantization="Q4_K_M"))
        cores = physical_cores_available()
        pinned = [f"labkit, n_threads {n}" for n in range(1, cores + 1)]
        sides = [Side(name, path) for name in ("labkit", *pinned, "llama", "llama all")]
        rows, results = [], {}
        goals = {}
        for situation, (n, own, burst) in SITUATIONS.items():
            if arguments.situations not in situation:
                continue
            with others(n, own_session=own, burst=burst):
                # Four times as many on an idle machine: its goal is the closest, and its runs are the shortest.
                speeds = compare(sides, arguments.repeats * (1 if n else 4), 4 if burst else 1)
            results[situation] = speeds
            print(situation, json.dumps(speeds), file=sys.stderr, flush=True)
            for part in ("decode", "prefill"):
                best = max(speeds[name][part] for name in pinned)
                ratio, over_llama = speeds["labkit"][part] / best, speeds["labkit"][part] / speeds["llama"][part]
                rows.append(
                    (
                        situation,
                        part,
                        *(f"{speeds[side.name][part]:.1f}" for side in sides),
                        f"{ratio:.2f}",
                        f"{over_llama:.2f}",
                    )
                )
                goals[f"{situation}, {part}"] = ratio >= (0.9 if n else 0.98) and over_llama >= 0.9
        for side in sides:
            side.end()
        for own in (False, True):
            seen = answer_to_change(path, own)
            lower = first_change(seen["threads"], seen["changes"]["busy"], 1)
            raised = first_change(seen["threads"], seen["changes"]["free"], cores)
            name = f"core busy, then free, {'own' if own else 'same'} session: tokens until the threads adapt"
            results[name] = {"lower": lower, "raised": raised, "threads": seen["threads"]}
            rows.append((name, "decode", f"{lower}", f"{raised}", *[""] * len(sides)))
            goals[name] = lower is not None and raised is not None and max(lower, raised) <= 10
    rows += [(f"goal: {goal}", "", "met" if met else "MISSED", *[""] * (len(sides) + 1)) for goal, met in goals.items()]
    headings = ("situation", "part", *(side.name for side in sides), "labkit / best fixed", "labkit / Llama")
    report(f"busy_machine, {arguments.model} model", headings, rows, {"speeds": results, "goals": goals})


if __name__ == "__main__":
    main()
