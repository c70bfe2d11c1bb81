"""Measure how fast a model answers: llama-bench's tests (pp, tg), and beside them what a user of the same model sees.

The engine's rows are llama.cpp alone by llama-bench's protocol: random tokens, nothing sampled. The user's rows are
labkit's generate_text on a prompt of the same length: tokenizing, sampling and text included. What the header and this
machine's bandwidth and kernels let expect of the engine is foretold before, and stands beside.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from labkit.cli.arguments import add_model
from labkit.cli.output import Output

if TYPE_CHECKING:
    from labkit.benchmark import BenchmarkResult
    from labkit.engine import Model
    from labkit.roofline import SpeedPrediction

HELP = "measure how fast a model answers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_model(parser)
    parser.add_argument("-p", "--n-prompt", type=int, default=512, metavar="N", help="tokens of the prompt (512)")
    parser.add_argument("-n", "--n-gen", type=int, default=128, metavar="N", help="tokens to generate (128)")
    parser.add_argument("-r", "--repetitions", type=int, default=5, metavar="N", help="rounds that are counted (5)")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads to compute with; all physical cores")
    parser.add_argument("--n-parallel", type=int, default=1, metavar="N", help="prompts that are decoded together (1)")
    parser.add_argument("--no-predict", action="store_true", help="leave out what is foretold (it takes two seconds)")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print every figure as JSON")
    shape.add_argument("--csv", action="store_true", help="print a row a test as CSV, with llama-bench's names of columns")
    shape.add_argument("--markdown", action="store_true", help="print the tables as Markdown")


def run(args: argparse.Namespace, out: Output) -> int:
    """Run the command."""
    _check(args)
    foretold = None if args.no_predict or args.csv or args.markdown else _foretell(args)
    result = _measure(args, quiet=args.json or args.csv or args.markdown)
    if args.csv or args.markdown:
        from labkit.benchmark.result import bench_csv

        print(bench_csv(result) if args.csv else result.to_markdown(), end="")
        return 0
    from labkit.benchmark.result import HEADINGS, USER, bench_records, bench_rows, summary_rows

    rows = bench_rows(result)  # the last two cells are the test and its speed
    engine = [row[1:] for row in rows if not row[-2].endswith(USER)]  # with the model's name a line would be too long
    user = [("prompt" if row[-2].startswith("pp") else "generating", row) for row in rows if row[-2].endswith(USER)]
    out.table(HEADINGS[1:], engine, title=f"{result.settings.model} ({rows[0][0]}): llama.cpp alone")
    if foretold is not None:
        out.table(("", "tokens/s", "measured / foretold"), _beside(foretold, result), title="foretold for llama.cpp alone")
        out.say(f"Generating is limited by {foretold.limit}.")
    seen = [(name, f"{row[-1]} tokens/s ({row[-2].removesuffix(USER)})") for name, row in user]
    out.table(("", ""), [*seen, *summary_rows(result)], title="what a user of it sees")
    for note in result.notes:
        out.say(note)
    out.result({"tests": bench_records(result), "foretold": foretold, **result})
    return 0


def _check(args: argparse.Namespace) -> None:
    from labkit.benchmark.run import MAX_PARALLEL, MAX_REPEATS
    from labkit.checks import check_int

    most = {"n_prompt": 2**31 - 1, "n_gen": 2**31 - 1, "repetitions": MAX_REPEATS, "n_parallel": MAX_PARALLEL}
    for option, high in most.items():
        check_int(f"--{option.replace('_', '-')}", getattr(args, option), 1, high)


def _foretell(args: argparse.Namespace) -> SpeedPrediction:
    from labkit.roofline import predict_speed

    depth = args.n_gen // 2  # llama-bench generates from an empty context on, one sequence
    return predict_speed(args.model, depth=depth, n_threads=args.threads, n_prompt=args.n_prompt)


def _beside(foretold: SpeedPrediction, result: BenchmarkResult) -> list[tuple[str, str, str]]:
    """Return each speed that was foretold with the share of it that was measured."""
    speeds = (
        ("prompt", foretold.prompt_tokens_per_second, result.engine_prompt_tokens_per_second),
        ("generating", foretold.decode_tokens_per_second, result.engine_decode_tokens_per_second),
    )
    return [(name, f"{said:.1f}", f"{(measured or 0.0) / said:.2f}") for name, said, measured in speeds]


def _measure(args: argparse.Namespace, *, quiet: bool) -> BenchmarkResult:
    from labkit.benchmark import benchmark_inference
    from labkit.engine import load_model

    with load_model(args.model, n_ctx=args.n_prompt + args.n_gen, n_threads=args.threads) as model:
        return benchmark_inference(
            model,
            [_prompt(model, args.n_prompt, 7 * index) for index in range(args.n_parallel)],
            max_tokens=args.n_gen,
            repeats=args.repetitions,
            n_parallel=args.n_parallel,
            progress=not quiet,
        )


def _prompt(model: Model, n_tokens: int, first: int) -> str:
    """Return prose of so many tokens from its word ``first`` on, or of a few less where no cut gives just that."""
    from labkit.engine import count_tokens
    from labkit.quality import evaluation_text

    prose = evaluation_text()
    prose = prose.split(" ", first)[-1] + " "  # texts that begin alike would be computed once
    text = prose * (1 + 8 * n_tokens // len(prose))
    low, high = 1, len(text)
    while low < high:  # the longest beginning that has at most so many tokens
        middle = (low + high + 1) // 2
        if count_tokens(model, text[:middle], add_special=True) <= n_tokens:
            low = middle
        else:
            high = middle - 1
    return text[:low]
